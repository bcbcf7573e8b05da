"""A module that cannot be imported, because of what it imports."""

import no_such_module_of_anyone  # noqa: F401
