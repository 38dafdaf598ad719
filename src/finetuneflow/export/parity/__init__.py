"""Does the served file answer like the trained model?"""
