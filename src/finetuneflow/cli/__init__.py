"""The command line: it parses, calls services, and prints. No logic lives here."""
