"""Server reflection, so that grpcurl and friends work without .proto files.

Our message packages are our own (the wire does not carry them), but clients must
see the packages that the services are known by: descriptors are shown under the
package of the service's registered name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError

from legato.protocols.rpc.gen import reflection_pb2
from legato.protocols.rpc.service import Call, Handler, Method, RpcError, Service, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NAMES: Final = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)


def services(described: Iterable[Service]) -> tuple[Service, ...]:
    """Return the reflection services (v1 and v1alpha) that describe ``described``."""
    own = reflection_pb2.DESCRIPTOR.serialized_pb
    bare = [Service(name, {}, (own,)) for name in NAMES]
    catalogue = Catalogue([*described, *bare])

    def factory(call: Call) -> Handler:
        return _Reflection(call, catalogue)

    method = Method(factory, client_streaming=True, server_streaming=True)
    return tuple(entry._replace(methods={"ServerReflectionInfo": method}) for entry in bare)


class Catalogue:
    """Files by name and by the symbols they define."""

    def __init__(self, described: Iterable[Service]) -> None:
        self.names: list[str] = []
        self.files: dict[str, FileDescriptorProto] = {}
        self.symbols: dict[str, str] = {}
        for service in described:
            self.names.append(service.name)
            for file in _published(service):
                self.files[file.name] = file
                self.symbols.update(dict.fromkeys(_symbols(file), file.name))

    def with_dependencies(self, name: str) -> list[bytes]:
        """Return a file and those that it needs, serialized; the file first."""
        found: dict[str, bytes] = {}
        waiting = [name]
        while waiting:
            current = waiting.pop()
            file = self.files.get(current)
            if file is not None and current not in found:
                found[current] = file.SerializeToString()
                waiting += file.dependency
        return list(found.values())


def _published(service: Service) -> Iterator[FileDescriptorProto]:
    """Yield a service's files, in the package that the service is known by."""
    package, _, short = service.name.rpartition(".")
    files = [FileDescriptorProto.FromString(data) for data in service.file_descriptors]
    own = next(
        (file.package for file in files if any(entry.name == short for entry in file.service)),
        package,
    )
    renamed = {file.name: f"{package}/{file.name.rpartition('/')[2]}" for file in files}
    for file in files:
        if own != package:
            _move(file, own, package, renamed)
        yield file


def _move(file: FileDescriptorProto, own: str, package: str, renamed: dict[str, str]) -> None:
    """Move a file from our package to the public one, with all references."""

    def moved(type_name: str) -> str:
        prefix = f".{own}."
        return (
            f".{package}.{type_name[len(prefix) :]}" if type_name.startswith(prefix) else type_name
        )

    def move_fields(message: DescriptorProto) -> None:
        for field in (*message.field, *message.extension):
            if field.type_name:
                field.type_name = moved(field.type_name)
        for nested in message.nested_type:
            move_fields(nested)

    if file.package == own:
        file.package = package
    file.name = renamed[file.name]
    file.dependency[:] = [renamed.get(name, name) for name in file.dependency]
    for message in file.message_type:
        move_fields(message)
    for entry in file.service:
        for method in entry.method:
            method.input_type = moved(method.input_type)
            method.output_type = moved(method.output_type)


def _symbols(file: FileDescriptorProto) -> Iterator[str]:
    """Yield the full names of what a file defines."""
    prefix = f"{file.package}." if file.package else ""

    def of(message: DescriptorProto, outer: str) -> Iterator[str]:
        name = outer + message.name
        yield name
        for field in message.field:
            yield f"{name}.{field.name}"
        for kind in message.enum_type:
            yield f"{name}.{kind.name}"
        for nested in message.nested_type:
            yield from of(nested, f"{name}.")

    for message in file.message_type:
        yield from of(message, prefix)
    for kind in file.enum_type:
        yield prefix + kind.name
    for entry in file.service:
        yield prefix + entry.name
        yield from (f"{prefix}{entry.name}.{method.name}" for method in entry.method)


class _Reflection:
    """Answers one reflection stream."""

    __slots__ = ("_call", "_catalogue")

    def __init__(self, call: Call, catalogue: Catalogue) -> None:
        self._call = call
        self._catalogue = catalogue

    def message(self, data: bytes) -> None:
        try:
            request = reflection_pb2.ServerReflectionRequest.FromString(data)
        except DecodeError as error:
            text = "the message is not a ServerReflectionRequest"
            raise RpcError(Status.INTERNAL, text) from error
        self._call.send(self._answer(request).SerializeToString())

    def half_close(self) -> None:
        self._call.finish()

    def cancel(self) -> None:
        """Nothing is under way between messages."""

    def _answer(
        self, request: reflection_pb2.ServerReflectionRequest
    ) -> reflection_pb2.ServerReflectionResponse:
        answer = reflection_pb2.ServerReflectionResponse(
            valid_host=request.host, original_request=request
        )
        catalogue = self._catalogue
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            for name in catalogue.names:
                answer.list_services_response.service.add(name=name)
        elif kind == "file_by_filename":
            self._put_file(answer, request.file_by_filename)
        elif kind == "file_containing_symbol":
            symbol = request.file_containing_symbol.lstrip(".")
            self._put_file(answer, catalogue.symbols.get(symbol, ""))
        else:
            answer.error_response.error_code = Status.NOT_FOUND
            answer.error_response.error_message = "no extensions are defined here"
        return answer

    def _put_file(self, answer: reflection_pb2.ServerReflectionResponse, name: str) -> None:
        files = self._catalogue.with_dependencies(name)
        if files:
            answer.file_descriptor_response.file_descriptor_proto.extend(files)
        else:
            answer.error_response.error_code = Status.NOT_FOUND
            answer.error_response.error_message = "no such file or symbol"
