"""What is served, in messages of the protocol and in their JSON: status and metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import any_pb2

from legato.core.errors import UnknownModelError
from legato.core.types import InputKind
from legato.engine.catalog import VersionState, VersionStateError
from legato.protocols.tfserving.datatypes import number_of_numpy
from legato.protocols.tfserving.errors import (
    MODEL_MISSING,
    NOT_LOADED,
    VERSION_MISSING,
    VERSION_RETIRED,
    StillLoadingError,
)
from legato.protocols.tfserving.gen import tfserving_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable

    from legato.core.types import TensorSpec
    from legato.engine.catalog import Known
    from legato.protocols.tfserving.errors import Words
    from legato.protocols.tfserving.ports import CatalogPort, ServedModel

SIGNATURE = "signature_def"
SIGNATURE_URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
SIGNATURE_NAME = "serving_default"

_STATES = {
    VersionState.LOADING: (pb.ModelVersionStatus.LOADING, pb.StatusProto.OK),
    VersionState.AVAILABLE: (pb.ModelVersionStatus.AVAILABLE, pb.StatusProto.OK),
    VersionState.FAILED: (pb.ModelVersionStatus.LOADING, pb.StatusProto.UNKNOWN),
    VersionState.RETIRED: (pb.ModelVersionStatus.END, pb.StatusProto.OK),
    VersionState.UNLOADING: (pb.ModelVersionStatus.UNLOADING, pb.StatusProto.OK),
}


def find(
    catalog: CatalogPort,
    name: str,
    version: str,
    *,
    lingering: bool = False,
    unknown: Words = MODEL_MISSING,
) -> ServedModel:
    """Find a version that takes steps.

    Args:
        catalog: What is served.
        name: Model name.
        version: Version; "" and "0" = the default one.
        lingering: One that serves only the sequences that live on it will do.
        unknown: What to say of a model that nobody has heard of.

    Raises:
        StillLoadingError: It is being loaded.
        RefusalError: There is none.
    """
    try:
        return catalog.find(name, version if version != "0" else "", lingering=lingering)
    except VersionStateError as error:
        if error.state is VersionState.LOADING:
            raise StillLoadingError(NOT_LOADED) from None
        retired = error.state is VersionState.RETIRED
        raise (VERSION_RETIRED if retired else NOT_LOADED).refusal() from None
    except UnknownModelError as error:
        raise (VERSION_MISSING if error.version else unknown).refusal() from None


# -- metadata -----------------------------------------------------------------------------------


def signature_map(model: ServedModel) -> pb.SignatureDefMap:
    """Return inputs and outputs; the special tensors are not among them."""
    made = pb.SignatureDefMap()
    definition = made.signature_def[SIGNATURE_NAME]
    for spec in model.signature.inputs:
        if spec.kind is not InputKind.CONTROL:
            _describe(definition.inputs[spec.name], spec)
    for spec in model.signature.outputs:
        _describe(definition.outputs[spec.name], spec)
    return made


def _describe(info: pb.TensorInfo, spec: TensorSpec) -> None:
    info.name = spec.name
    info.dtype = number_of_numpy(spec.dtype)  # type: ignore[assignment]
    info.tensor_shape.SetInParent()
    for size in spec.shape:
        info.tensor_shape.dim.add(size=size)


def metadata(model: ServedModel) -> pb.GetModelMetadataResponse:
    """Return the answer to GetModelMetadata."""
    answer = pb.GetModelMetadataResponse()
    answer.model_spec.name = model.name
    answer.model_spec.version.value = _number(model.version)
    value = any_pb2.Any(
        type_url=SIGNATURE_URL, value=signature_map(model).SerializeToString(deterministic=True)
    )
    answer.metadata[SIGNATURE].CopyFrom(value)
    return answer


def metadata_json(model: ServedModel) -> dict[str, Any]:
    """Return the same as JSON: names in lowerCamelCase, 64-bit numbers as strings."""
    definition = signature_map(model).signature_def[SIGNATURE_NAME]
    return {
        "modelSpec": {
            "name": model.name,
            "signatureName": "",
            "version": str(_number(model.version)),
        },
        "metadata": {
            SIGNATURE: {
                "@type": SIGNATURE_URL,
                "signatureDef": {
                    SIGNATURE_NAME: {
                        "inputs": {n: _info_json(i) for n, i in definition.inputs.items()},
                        "outputs": {n: _info_json(i) for n, i in definition.outputs.items()},
                        "methodName": "",
                    }
                },
            }
        },
    }


def _info_json(info: pb.TensorInfo) -> dict[str, Any]:
    return {
        "dtype": pb.DataType.Name(info.dtype),
        "tensorShape": {
            "dim": [{"size": str(dim.size), "name": ""} for dim in info.tensor_shape.dim],
            "unknownRank": False,
        },
        "name": info.name,
    }


# -- status ---------------------------------------------------------------------------------------


def status(catalog: CatalogPort, name: str, version: str) -> pb.GetModelStatusResponse:
    """Return the answer to GetModelStatus: all known versions, or the one asked for.

    Raises:
        RefusalError: There is no such model or version.
    """
    known = catalog.known(name)
    if not known:
        raise MODEL_MISSING.refusal()
    if version not in ("", "0"):
        known = [entry for entry in known if entry.version == version]
        if not known:
            raise VERSION_MISSING.refusal()
    return _statuses(known)


def _statuses(known: Iterable[Known]) -> pb.GetModelStatusResponse:
    answer = pb.GetModelStatusResponse()
    for entry in known:
        state, code = _STATES[entry.state]
        answer.model_version_status.add(
            version=_number(entry.version),
            state=state,
            status=pb.StatusProto(error_code=code, error_message=pb.StatusProto.Code.Name(code)),
        )
    return answer


def status_json(answer: pb.GetModelStatusResponse) -> dict[str, Any]:
    """Return a status as JSON; versions are strings, states and codes are names."""
    return {
        "model_version_status": [
            {
                "version": str(entry.version),
                "state": pb.ModelVersionStatus.State.Name(entry.state),
                "status": {
                    "error_code": pb.StatusProto.Code.Name(entry.status.error_code),
                    "error_message": entry.status.error_message,
                },
            }
            for entry in answer.model_version_status
        ]
    }


def all_statuses_json(catalog: CatalogPort) -> dict[str, Any]:
    """Return the status of every model that was heard of, by name."""
    return {name: status_json(status(catalog, name, "")) for name in catalog.names()}


def _number(version: str) -> int:
    return int(version) if version.isdecimal() else 0
