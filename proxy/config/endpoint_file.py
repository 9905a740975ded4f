"""A file with a list of endpoints, written as `endpoints` of a cluster is, with faults that have line and column."""

from pydantic import RootModel, ValidationError

from proxy.config.document import UnreadableDocument, read_document
from proxy.config.faults import InvalidConfig
from proxy.config.load import MAX_FAULTS, decode, fault_of, model_trouble
from proxy.config.schema import Endpoint


class _Endpoints(RootModel[tuple[Endpoint, ...]]):
    """What the file holds."""


def parse_endpoints(content: bytes, file: str) -> tuple[Endpoint, ...]:
    """The endpoints in `content`; `file` is the name in faults. Values are as they stand: nothing is brought in from
    the environment or other files. Raises `InvalidConfig`."""
    try:
        document = read_document(decode(content, file), lambda text: text, "a list of endpoints, or []")
    except UnreadableDocument as error:
        raise InvalidConfig([fault_of(file, error.trouble)]) from error
    troubles = list(document.troubles)
    try:
        found = _Endpoints.model_validate(document.data).root
    except ValidationError as error:
        for each in error.errors(include_url=False, include_input=False)[:MAX_FAULTS]:
            context = each.get("ctx", {})
            trouble = model_trouble(document, each["loc"], each["type"], context, each["msg"], Endpoint)
            if trouble.path not in document.broken:
                troubles.append(trouble)
    if troubles:
        faults = sorted(
            {fault_of(file, each) for each in troubles}, key=lambda each: (each.line, each.column)
        )
        raise InvalidConfig(faults[:MAX_FAULTS])
    return found
