"""Looking into networks: what they cost."""

from .summary import Row, Summary, saved_bytes, summary

__all__ = ["Row", "Summary", "saved_bytes", "summary"]
