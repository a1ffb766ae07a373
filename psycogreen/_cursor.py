"""What a green cursor adds to psycopg2's."""

from psycopg2 import extensions


class GreenCursor(extensions.cursor):  # mixins go before extensions.cursor: (GreenCopy, extensions.cursor)
    """psycopg2's cursor, in which no call can stop the hub."""

    # Nothing is stored in the objects, so that *green_class* can combine this
    # with any class, and cursors stay as small as psycopg2's.
    __slots__ = ()
