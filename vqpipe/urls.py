"""Where things lie: paths of this machine and URLs of object stores, under one set of verbs."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

from vqpipe.errors import ConfigError

OBJECT_SCHEMES = ("s3", "gs", "az", "memory")

# What is read from a web server, as it is given to everyone, and never written.
WEB_SCHEMES = ("https", "http")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

# What stores allow, and a little more: no @ and no : can stand in it.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HOST = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")

# A query has an equals sign; a lone ? stands for a character of a pattern.
_QUERY = re.compile(r"\?[^/]*=")


def is_url(place: str) -> bool:
    """Say whether a place is an object, or a prefix of objects, in a store.

    Examples
    --------
    >>> is_url("s3://bucket/vectors.npy"), is_url("/data/vectors.npy")
    (True, False)
    """
    scheme = _SCHEME.match(place)
    return scheme is not None and scheme[1].lower() in (*OBJECT_SCHEMES, *WEB_SCHEMES)


def is_web(place: str) -> bool:
    """Say whether a place lies on a web server.

    Examples
    --------
    >>> is_web("https://host/vectors.zarr"), is_web("s3://bucket/vectors.zarr")
    (True, False)
    """
    scheme = _SCHEME.match(place)
    return scheme is not None and scheme[1].lower() in WEB_SCHEMES


def absolute(place: str | os.PathLike[str], base: str = "") -> str:
    """Return a place written in full: a path from the root, or a URL without a slash at its end.

    Parameters
    ----------
    place : str or path
        A path, a ``file://`` URL, or the URL of an object.
    base : str
        Folder that a relative path is taken from; the working directory unless given.

    Raises
    ------
    ConfigError
        For another scheme, a URL that holds a user name, a password or a signature, or one that names no bucket.

    Examples
    --------
    >>> absolute("S3://bucket/runs/"), absolute("file:///data/a%20b"), absolute("a", "/data")
    ('s3://bucket/runs', '/data/a b', '/data/a')
    """
    text = os.fspath(place)
    scheme = _SCHEME.match(text)
    if scheme is None:
        path = os.path.expanduser(text)
        if text.startswith("~") and path == text and not os.path.lexists(text):
            raise ConfigError(f"{text!r}: there is no such user's home; write the path in full")
        return os.path.abspath(os.path.join(base, path))
    name = scheme[1].lower()
    if name == "file":
        return _file_path(text)
    known = ("file", *OBJECT_SCHEMES, *WEB_SCHEMES)
    if name not in known:
        raise ConfigError(
            f"{name}://...: such URLs are not known; write a path, or a URL of {', '.join(known)}"
        )
    bucket, _, key = text[scheme.end() :].partition("/")
    # Never shown: what is refused may hold a secret.
    web = name in WEB_SCHEMES
    query = "?" in text or "#" in text if web else ":" in bucket or _QUERY.search(text)
    if web and ("@" in bucket or query):
        raise ConfigError(
            f"{name}://...: the address holds a user name, a password, or a query after ? or #, which would be written "
            "to the output; only plain addresses are read, of what a server gives to everyone"
        )
    if "@" in bucket or query:
        raise ConfigError(
            f"{name}://...: the URL holds a user name, a password or a signature, which would be written to the "
            "output; give the bare URL, and the credentials in the environment of the driver and the workers"
        )
    if (_HOST if web else _BUCKET).fullmatch(bucket) is None:
        what = "host" if web else "bucket"
        raise ConfigError(
            f"{name}://...: the URL names no {what}; write {name}://{what.upper()}/FOLDER/NAME"
        )
    key = key.strip("/")
    if key and {"", ".", ".."} & set(key.split("/")):
        raise ConfigError(
            f"{name}://{bucket}/...: {key!r} has an empty name, '.' or '..' in it, which object stores do not take for "
            "what a path does; write the name in full"
        )
    return f"{name}://{bucket}/{key}".rstrip("/")


def _file_path(text: str) -> str:
    url = urlsplit(text)
    if url.netloc not in ("", "localhost"):
        raise ConfigError(
            f"file://...: names the host {url.netloc.rpartition('@')[2]!r}; a file URL has three slashes: "
            "file:///folder/file"
        )
    return os.path.abspath(unquote(url.path))


def bucket_and_key(url: str) -> tuple[str, str]:
    """Return a URL's ``scheme://bucket`` and the key inside; the key is empty for the bucket itself.

    Examples
    --------
    >>> bucket_and_key("s3://bucket/runs/sift")
    ('s3://bucket', 'runs/sift')
    """
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


def stored_key(url: str) -> str:
    """Return a URL's key as a store takes it: what is written as %20 in a web address is a space there.

    Examples
    --------
    >>> stored_key("https://host/my%20vectors.zarr"), stored_key("s3://bucket/50%25.zarr")
    ('my vectors.zarr', '50%25.zarr')
    """
    key = bucket_and_key(url)[1]
    return unquote(key) if is_web(url) else key


def join(place: str, *names: str) -> str:
    """Return the place of something inside a place.

    Examples
    --------
    >>> join("s3://bucket", "v1", "codes.zarr"), join("/data", "v1")
    ('s3://bucket/v1/codes.zarr', '/data/v1')
    """
    if is_url(place):
        return "/".join([place.rstrip("/"), *(name for name in names if name)])
    return os.path.join(place, *names)


def split(place: str) -> tuple[str, str]:
    """Return what a place lies in, and its name there.

    Examples
    --------
    >>> split("s3://bucket/v1"), split("/data/v1")
    (('s3://bucket', 'v1'), ('/data', 'v1'))
    """
    if is_url(place):
        bucket, key = bucket_and_key(place)
        parent, _, name = key.rpartition("/")
        return join(bucket, parent), name
    return os.path.split(place)


def relative(place: str, folder: str) -> str:
    """Return a place as it is seen from a folder that it lies in.

    Examples
    --------
    >>> relative("s3://bucket/out/v1/codes.zarr", "s3://bucket/out")
    'v1/codes.zarr'
    """
    if is_url(place):
        return place.removeprefix(f"{folder}/")
    return os.path.relpath(place, folder)
