"""What is wrong with movies, before hours of work: measured in one pass, judged, said with a number. No torch."""

from larscope.quality.check import check_session
from larscope.quality.findings import Finding, describe_findings, worst_level

__all__ = ["Finding", "check_session", "describe_findings", "worst_level"]
