"""Mechanisms put into a trained model by fine-tuning."""
