"""Tells what a handler finds in its worker: imports, its context, its configuration."""

import importlib

import tiny  # from the archive's requirements


def handle(data, context):
    if data is None:
        return None
    context.set_response_header(0, "x-set", "yes")
    context.set_response_content_type(0, "application/json")
    context.set_response_status(201, "Made", 0)
    wanted = context.model_yaml_config["wanted"]
    missing = []
    for name in wanted["imports"]:
        module, _, member = name.partition(":")
        if not hasattr(importlib.import_module(module), member):
            missing.append(name)
    missing += [name for name in wanted["context"] if not hasattr(context, name)]
    told = {
        "missing": missing,
        "tiny": tiny.VALUE,
        "config": context.model_yaml_config,
        "model": context.manifest["model"]["modelName"],
        "properties": sorted(context.system_properties),
        "path": context.get_request_header(0, "url_path"),
        "status": context.get_response_status(0),
        "equal": context == context,  # noqa: PLR0124
    }
    return [told] * len(data)
