"""One self-contained HTML page and its figures, made from a result folder alone."""

from larscope.report.page import write_report

__all__ = ["write_report"]
