"""The one kind of error that is meant for the person at the keyboard."""


class UserError(ValueError):
    """Something the user can mend: the message is one line that names the culprit.

    `lightning_cli.py` prints it without a traceback. DataLoader workers re-raise an exception of the
    same class whose text is a whole traceback; the text is cut back to the original line here.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rsplit("UserError: ", 1)[-1].strip())


class StoppedElsewhere(UserError):
    """Another process of this run has said what is wrong; this one only stops."""
