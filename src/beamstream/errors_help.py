"""What each error means and what to do about it: the text of `beamstream explain`.

`docs/reference/errors.md` shows the same, with links; a test keeps the two in step.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Help(NamedTuple):
    """`means`: what has happened. `advice`: what to do next."""

    means: str
    advice: str


HELP: Final[dict[str, Help]] = {
    "E000": Help(
        "base of all errors",
        "catch this one to catch them all",
    ),
    "E100": Help(
        "the call is wrong; the same call fails again",
        "read the text, change the call",
    ),
    "E101": Help(
        "a source, stream, group, beamtime or file name is refused: empty, too long, quotes, "
        "backslashes, control characters, `..`, an absolute path",
        "use another name",
    ),
    "E102": Help(
        "metadata is not JSON, not an object, nested too deeply, or has too many values",
        "send a JSON object within the limits",
    ),
    "E103": Help(
        "the text of a search is not understood, or uses what the language does not have",
        "the text says where; compare the tutorial",
    ),
    "E104": Help(
        "a setting is unknown, has a wrong value, contradicts another, or the machine cannot "
        "provide it (memory, address)",
        "`beamstream config show` tells where each value comes from",
    ),
    "E105": Help(
        "more bytes than a limit allows",
        "send less, or give the node a larger cache; see limits",
    ),
    "E106": Help(
        "a step is declared, or called, as it cannot be",
        "the text says what does not fit; the forms of a step are in the reference of workers",
    ),
    "E107": Help(
        "a parameter of a step is unknown or has a value of the wrong type",
        "`beamstream worker run STEP --help` lists them with their types",
    ),
    "E108": Help(
        "a pipeline file names what is not there, or goes in a circle",
        "`beamstream pipeline check FILE` lists all that is wrong",
    ),
    "E200": Help(
        "the token does not allow it",
        "ask for another token",
    ),
    "E201": Help(
        "not a token of this node, expired, or revoked",
        "make a new one: `beamstream token new`",
    ),
    "E202": Help(
        "a good token, for another beamtime, or without this right",
        "make one with the beamtime and rights that are needed",
    ),
    "E300": Help(
        "there is no such stream, message, beamtime, token or folder",
        "check the name; open the beamtime",
    ),
    "E400": Help(
        "something else is there already; nothing was changed",
        "use another id, name or stream",
    ),
    "E401": Help(
        "a message of this id exists, with other content",
        "use a new id or stream",
    ),
    "E402": Help(
        "a file of this name exists, with other content; files are never replaced",
        "use another file name, or move the file away",
    ),
    "E403": Help(
        "the id is beyond the announced last one of the stream",
        "use another stream",
    ),
    "E404": Help(
        "this group has acknowledged that message before",
        "nothing: it is acknowledged",
    ),
    "E405": Help(
        "the delivery that is acknowledged has expired, and the message may be somebody "
        "else's by now. Kept for the native client; ASAPO's protocol has no such answer",
        "let the message go",
    ),
    "E500": Help(
        "disk or files: the text has the system's reason",
        "look at the disk and at rights of folders",
    ),
    "E501": Help(
        "the disk is full; nothing was stored",
        "free some space",
    ),
    "E502": Help(
        "records could not be synced: the beamtime takes nothing more, reading goes on",
        "look at the disk, start the node again",
    ),
    "E503": Help(
        "stored bytes are not those that were sent, or a database is none of ours",
        "restore that file",
    ),
    "E504": Help(
        "the record is there, its payload is not: it was in the cache only, or its file is missing",
        "restore the file if there was one",
    ),
    "E505": Help(
        "another node runs on this data folder",
        "stop it, or choose another folder",
    ),
    "E506": Help(
        "a newer version has written the data folder; nothing was changed",
        "start the newer version",
    ),
    "E600": Help(
        "too much at the moment",
        "try again in a moment",
    ),
    "E601": Help(
        "no room in the cache within the waiting time",
        "try again; look for slow disks and readers, or enlarge the cache",
    ),
    "E602": Help(
        "a limit on connections, groups or waiting requests is reached",
        "close what is not needed",
    ),
    "E700": Help(
        "the two sides do not speak the same language",
        "check versions and address",
    ),
    "E701": Help(
        "this side used the protocol wrongly",
        "a bug: please report it",
    ),
    "E702": Help(
        "the other side sent what the protocol does not allow",
        "is it the right port, and ASAPO's protocol?",
    ),
    "E800": Help(
        "the connection broke, or a node ended",
        "try again; look at the node's log",
    ),
    "E801": Help(
        "not within the given time",
        "try again, or give it more time",
    ),
    "E900": Help(
        "a fact, not a fault: nothing more at the moment, or the stream is finished",
        "stop, or wait for more",
    ),
    "E910": Help(
        "the code of a step raised, or returned what it must not",
        "`beamstream worker failed STEP` has the traceback; mend it, then `worker again`",
    ),
    "E301": Help(
        "the id has not arrived, larger ones have (`id`, `id_max`); with `next` the group has "
        "stepped over it",
        "go on; ask `by_id` later",
    ),
    "E302": Help(
        "parts of a dataset are missing (`dataset` has those that are there)",
        "wait, or accept fewer with `min_size`",
    ),
    "E507": Help(
        "the payload was in memory only and is gone (`record` is the message)",
        "store such messages as files, read faster, or enlarge the cache",
    ),
    "E703": Help(
        "the server failed at it; the text has its reason, a damaged file for example",
        "read the text; look at the node's log",
    ),
    "E704": Help(
        "the server refuses this version of the protocol",
        "update one of the two",
    ),
    "E802": Help(
        "nobody answers at the address, or the service says that it is not there now",
        "check the address; is the node running?",
    ),
    "E901": Help(
        "nothing new within the timeout (`id_max`)",
        "ask again",
    ),
    "E902": Help(
        "the stream has ended (`next_stream` follows it, if it is not empty)",
        "stop, or go on with the next stream",
    ),
}
