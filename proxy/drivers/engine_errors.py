"""What the docker SDK raises, as our errors."""

import docker.errors
import requests.exceptions

from proxy.errors import EngineConflict, EngineError, EngineNotFound, EngineRefused, EngineUnavailable

# What a proxy in front says when there is no engine behind it.
_GATEWAY_STATUSES = (502, 503, 504)


class ImageMissing(EngineNotFound):
    """The engine has no such image."""


def engine_error(what: str, error: Exception, *, is_question: bool) -> EngineError | None:
    """What an error of the SDK means; `None` when it is none of its. An engine that cannot answer a question fails;
    one that cannot carry out an order has said why."""
    if isinstance(error, docker.errors.APIError):
        return _refusal(what, error, is_question)
    if isinstance(error, docker.errors.TLSParameterError):
        return EngineRefused(what, f"the certificates for TLS cannot be used: {error.msg}")
    if isinstance(error, (docker.errors.DockerException, requests.exceptions.RequestException, OSError)):
        return EngineUnavailable(what, _reason(error))
    return None


def _refusal(what: str, error: docker.errors.APIError, is_question: bool) -> EngineError:
    status = error.status_code or 0
    said = " ".join(str(error.explanation or error).split())
    if isinstance(error, docker.errors.ImageNotFound):
        return ImageMissing(what, said)
    if status == 404:
        return EngineNotFound(what, said)
    if status == 409:
        return EngineConflict(what, said)
    if status == 403:
        return EngineRefused(what, f"forbidden by whatever is in front of the engine: {said}")
    if status in _GATEWAY_STATUSES or (is_question and status >= 500):
        return EngineUnavailable(what, f"status {status}: {said}")
    return EngineRefused(what, said)


def _reason(error: BaseException) -> str:
    """The innermost cause in words, instead of four libraries' wrappings of it."""
    seen: set[int] = set()
    found = error
    while id(found) not in seen:
        seen.add(id(found))
        inner = [
            each for each in (*found.args, found.__cause__, found.__context__) if isinstance(each, Exception)
        ]
        reason = getattr(found, "reason", None)
        if isinstance(reason, Exception):
            inner.append(reason)
        found = next((each for each in inner if id(each) not in seen), found)
    if isinstance(found, OSError) and found.strerror:
        return found.strerror.lower()
    return " ".join(str(found).split()) or type(found).__name__
