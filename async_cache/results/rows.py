"""What the models, the migration and the layer agree on: lengths, and bytes as text."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

from async_cache.exceptions import ConfigurationError, UnstorableValue
from async_cache.results.exceptions import RecordRejected

__all__ = [
    "LENGTH_SETTING",
    "IdField",
    "from_text",
    "id_length",
    "refuse_id",
    "storable",
    "to_text",
]

LENGTH_SETTING: Final = "DJANGO_CELERY_RESULTS_TASK_ID_MAX_LENGTH"
DEFAULT_LENGTH: Final = 255

# Bytes of these encodings are text already.
_TEXT: Final = frozenset({"", "utf-8", "us-ascii", "ascii"})


def id_length() -> int:
    """Return the length of the columns that hold ids and names, all of them indexed.

    Raises:
        ConfigurationError: The setting is no length.
    """
    length = getattr(settings, LENGTH_SETTING, DEFAULT_LENGTH)
    if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= 4_000:
        raise ConfigurationError(f"{LENGTH_SETTING} must be a whole number of characters: 191.")
    return length


if TYPE_CHECKING:
    _CharField = models.CharField[Any, Any]
else:
    _CharField = models.CharField


class IdField(_CharField):
    """A text as long as the setting says, which is not part of the migrations' state.

    On MySQL and MariaDB, whose usual comparison ignores case, accents and spaces at the end, it is
    compared by its characters, as everywhere else.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["max_length"] = id_length()
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> Any:
        """Leave the length out: a changed setting is no change of the model."""
        name, path, args, kwargs = super().deconstruct()
        kwargs.pop("max_length", None)
        return name, path, args, kwargs

    def db_parameters(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        """Return the column's type and, on MySQL and MariaDB, how it is compared."""
        parameters: dict[str, Any] = dict(super().db_parameters(connection))
        if connection.vendor == "mysql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT @@character_set_database")
                (charset,) = cursor.fetchone()
            padded = "nopad_bin" if getattr(connection, "mysql_is_mariadb", False) else "bin"
            parameters["collation"] = f"{charset}_{padded}"
        return parameters


def refuse_id(name: str, value: str | None, length: int | None) -> None:
    """Refuse an id or a label that no row can hold; it cannot be cut or changed.

    Raises:
        UnstorableValue: It is longer than its column, or holds what is no text to a database.
    """
    if value is None:
        return
    if storable(value) != value:
        raise UnstorableValue(f"The {name} {value[:20]!r} holds NUL or half a character.")
    if length is not None and len(value) > length:
        raise UnstorableValue(
            f"The {name} {value[:20]!r}… has {len(value)} characters, its column {length}. Use "
            f"a shorter one, or set {LENGTH_SETTING} and run "
            "`manage.py async_cache resize_task_id`."
        )


def storable(text: str) -> str:
    """Return a text as every database takes it: NUL and lone surrogates as escapes."""
    if "\x00" in text:
        text = text.replace("\x00", "\\x00")
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def to_text(value: bytes, encoding: str) -> str:
    """Return bytes as a text column holds them: as they are, or in base64."""
    if encoding.lower() in _TEXT:
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise RecordRejected(
                f"the value is no text, though its encoding says so: {error}"
            ) from None
    return base64.b64encode(value).decode("ascii")


def from_text(text: str | None, encoding: str) -> bytes:
    """Return the bytes that a text column holds.

    Raises:
        RecordRejected: The text is no base64.
    """
    if not text:
        return b""
    if encoding.lower() in _TEXT:
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RecordRejected("the stored value is no base64") from error
