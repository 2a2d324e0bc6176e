"""What a run leaves behind: its journal, tables, report and pictures."""

from posterior.results.journal import Journal
from posterior.results.table import format_table

__all__ = ["Journal", "format_table"]
