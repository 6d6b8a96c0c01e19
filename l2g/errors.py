"""The errors that a user of l2g meets: each message says what was found, what was expected and what mends it."""


class L2GError(Exception):
    """Base of every error that bad input or a bad environment causes. Commands print it without a traceback."""


class ConfigError(L2GError):
    """A configuration names an unknown field or asks for something that cannot be built."""


class CheckpointError(L2GError):
    """A checkpoint is missing, truncated, of an unknown format, or does not fit the model."""


class ContractError(L2GError):
    """A graph or an engine does not keep the contract that it carries, or carries none."""


class VideoError(L2GError):
    """A video cannot be opened, decoded or written."""


class DataError(L2GError):
    """A data set, an annotation or a results file is broken; the message names the entry."""


class ExportError(L2GError):
    """A model cannot be exported as asked, or its graph does not give the model's numbers."""


class EngineError(L2GError):
    """An engine cannot be built as asked, is not what it says of itself, or does not fit this machine."""
