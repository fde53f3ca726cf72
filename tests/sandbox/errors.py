"""What can go wrong with the stand-in, as one line for a person."""


class SandboxError(RuntimeError):
    """The stand-in cannot do what was asked: the message says what was found and what to do next."""
