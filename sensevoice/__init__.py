"""SenseVoice Studio: what was said, in which language, with which emotion, and what else was heard."""

__version__ = "0.1.0"
