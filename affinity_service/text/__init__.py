"""Texts as tasks: rows of questions and answers, tokenised once into a suite."""

from affinity_service.text.objects import rows_from_dataset
from affinity_service.text.stored import read_texts

__all__ = ["read_texts", "rows_from_dataset"]
