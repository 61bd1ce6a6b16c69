"""Every error that Beamstream raises, in one tree.

::

    Error
    + BadInput (ValueError)          the caller must change something; the same call fails again
    |   x BadName                    a source, stream, group, beamtime or file name that is refused
    |   x BadMetadata                not JSON, not an object, too deep, too large
    |   x BadQuery                   the metadata search text is not understood
    |   x BadSetting                 a key or value of the configuration
    |   x TooLarge                   more bytes than a limit allows
    |   x BadStep                    a step is declared, or called, as it cannot be
    |   x BadParameter               a parameter of a step is unknown or has a wrong value
    |   x BadPipeline                a pipeline file that cannot work
    + Denied (PermissionError)       the token does not allow it
    |   x BadToken                   not a token of this node, expired or revoked
    |   x NotAllowed                 a good token, but for something else
    + NotFound (LookupError)         there is no such stream, message, beamtime, token
    + Conflict                       somebody else's data is in the way; nothing was changed
    |   x IdConflict                 this id exists with other content
    |   x NameConflict               a file of this name exists with other content
    |   x StreamFinished             ids beyond the announced last one are not taken
    |   x AlreadyAcknowledged        this group has acknowledged that message before
    |   x StaleLease                 the delivery that is acknowledged has expired
    + StorageError (OSError)         disk and files
    |   x NoSpace                    the disk is full; nothing was stored
    |   x ReadOnly                   the record log failed: reads go on, writes are refused
    |   x Corrupt                    stored bytes are not those that were sent
    |   x DataLost                   the record is there, its cache-only payload is gone
    |   x StoreInUse                 another node runs on this folder
    |   x StoreTooNew                written by a newer version
    + Overload                       try again in a moment
    |   x CacheFull                  no room in the cache within the waiting time
    |   x TooMany                    a limit on connections, streams, groups ... is reached
    + ProtocolError                  the two sides do not speak the same language
    |   x LocalProtocolError         this side used the protocol wrongly: a bug here
    |   x RemoteProtocolError        the other side sent what the protocol does not allow
    + ConnectionLost (ConnectionError)
    + TimedOut (TimeoutError)
    + EndOfStream                    a fact, not a fault: nothing more at the moment, or finished
    + StepFailed                     the code of a step raised, or returned what it must not

Each error has a stable ``code`` (shown to users and kept over versions), says whether trying again
can help (``retryable``), and may carry a ``hint``: what to do or type next. Any exception that is
raised by this package and is not in this tree is a bug; please report it.
"""

from __future__ import annotations

__all__ = [
    "AlreadyAcknowledged",
    "BadInput",
    "BadMetadata",
    "BadName",
    "BadParameter",
    "BadPipeline",
    "BadQuery",
    "BadSetting",
    "BadStep",
    "BadToken",
    "CacheFull",
    "Conflict",
    "ConnectionLost",
    "Corrupt",
    "DataLost",
    "Denied",
    "EndOfStream",
    "Error",
    "IdConflict",
    "LocalProtocolError",
    "NameConflict",
    "NoSpace",
    "NotAllowed",
    "NotFound",
    "Overload",
    "ProtocolError",
    "ReadOnly",
    "RemoteProtocolError",
    "StaleLease",
    "StepFailed",
    "StorageError",
    "StoreInUse",
    "StoreTooNew",
    "StreamFinished",
    "TimedOut",
    "TooLarge",
    "TooMany",
]


class Error(Exception):
    """Base of all errors of Beamstream.

    Parameters
    ----------
    message : what happened, and to which beamtime, source, stream, id or file.
    hint : what to do or type next; empty when there is nothing to advise.

    >>> try:
    ...     raise IdConflict("stream 'scan1' has message 7 with other content", hint="use a new id")
    ... except Error as error:
    ...     print(error)
    stream 'scan1' has message 7 with other content (use a new id)
    """

    code = "E000"
    retryable = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class BadInput(Error, ValueError):
    code = "E100"


class BadName(BadInput):
    code = "E101"


class BadMetadata(BadInput):
    code = "E102"


class BadQuery(BadInput):
    code = "E103"


class BadSetting(BadInput):
    code = "E104"


class TooLarge(BadInput):
    code = "E105"


class BadStep(BadInput):
    code = "E106"


class BadParameter(BadInput):
    code = "E107"


class BadPipeline(BadInput):
    code = "E108"


class Denied(Error, PermissionError):
    code = "E200"


class BadToken(Denied):
    code = "E201"


class NotAllowed(Denied):
    code = "E202"


class NotFound(Error, LookupError):
    code = "E300"


class Conflict(Error):
    code = "E400"


class IdConflict(Conflict):
    code = "E401"


class NameConflict(Conflict):
    code = "E402"


class StreamFinished(Conflict):
    code = "E403"


class AlreadyAcknowledged(Conflict):
    code = "E404"


class StaleLease(Conflict):
    code = "E405"


class StorageError(Error, OSError):
    code = "E500"


class NoSpace(StorageError):
    code = "E501"
    retryable = True


class ReadOnly(StorageError):
    code = "E502"


class Corrupt(StorageError):
    code = "E503"


class DataLost(StorageError):
    code = "E504"


class StoreInUse(StorageError):
    code = "E505"


class StoreTooNew(StorageError):
    code = "E506"


class Overload(Error):
    code = "E600"
    retryable = True


class CacheFull(Overload):
    code = "E601"


class TooMany(Overload):
    code = "E602"


class ProtocolError(Error):
    code = "E700"


class LocalProtocolError(ProtocolError):
    code = "E701"


class RemoteProtocolError(ProtocolError):
    code = "E702"


class ConnectionLost(Error, ConnectionError):
    code = "E800"
    retryable = True


class TimedOut(Error, TimeoutError):
    code = "E801"
    retryable = True


class EndOfStream(Error):
    code = "E900"


class StepFailed(Error):
    code = "E910"
