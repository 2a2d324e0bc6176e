"""The one kind of error that is meant for the person at the keyboard."""


class UserError(ValueError):
    """Something the user can mend: the message is one line that names the culprit.

    `lightning_cli.py` prints it without a traceback. DataLoader workers re-raise an exception of the
    same class whose text is a whole traceback; the text is cut back to the original line here.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rsplit("UserError: ", 1)[-1].strip())


class Diverged(UserError):
    """A sampler's chains have left the finite numbers; it costs the images that it names, and no other.

    Args:
        reasons: image id -> one line that says which chain, where, and what to try.
    """

    def __init__(self, reasons: dict[str, str]) -> None:
        first = next(iter(reasons.values()))
        super().__init__(first if len(reasons) == 1 else f"{first} (and so in all {len(reasons)} images of the batch)")
        self.reasons = reasons


class StoppedElsewhere(UserError):
    """Another process of this run has said what is wrong; this one only stops."""
