"""Errors that a user of the package can cause, each with a sentence that names the place and the cure."""


class DriftrecError(Exception):
    """Base of all errors that end a command with exit code 2 and one sentence, without a traceback."""


class LogError(DriftrecError):
    """An interaction log or one of its files cannot be used: names file, line and column."""


class ConfigurationError(DriftrecError):
    """An option or a constructor argument is wrong: names the option and what it accepts."""


class ArtefactError(DriftrecError):
    """A saved model, index, agent or run is damaged, foreign or of another version: names the file."""


class AgentError(DriftrecError):
    """An agent lacks a method, or returned slates that cannot be shown: names the agent and the fault."""
