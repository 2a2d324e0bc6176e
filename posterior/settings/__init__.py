"""Settings of a run: YAML files and command lines read, laid over each other, checked, and known by content."""

from posterior.settings.check import conformed, with_files_read
from posterior.settings.classes import Origin, named_classes, refuse_local
from posterior.settings.digests import Folders, code_digests, file_digests, module_digests
from posterior.settings.overlay import Given, overlaid, read_command_line, read_settings
from posterior.settings.places import config_file, named_file
from posterior.settings.yaml_file import load_yaml, read_yaml

__all__ = [
    "Folders",
    "Given",
    "Origin",
    "code_digests",
    "config_file",
    "conformed",
    "file_digests",
    "load_yaml",
    "module_digests",
    "named_classes",
    "named_file",
    "overlaid",
    "read_command_line",
    "read_settings",
    "read_yaml",
    "refuse_local",
    "with_files_read",
]
