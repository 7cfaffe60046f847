"""The one exception that a user sees as a single line."""


class UserError(Exception):
    """Something that the user can put right: a flag, a file, a folder. Its message names it and says what to do."""
