"""What can go wrong with the local stack."""


class StackError(Exception):
    """What was wrong, where, and what to do, in one sentence; `details` holds a server's last log lines."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details
