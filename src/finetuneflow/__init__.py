"""FineTuneFlow: documents, records and mistakes in, a proven fine-tuned model out."""

__version__ = "0.1.0"
