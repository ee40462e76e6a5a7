"""The one truth about every job: its life cycle, and the audit trail of every change."""
