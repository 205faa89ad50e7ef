"""Downloading and preparing TFDS datasets, in files that are read by index."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flan_jax.files import write_atomically
from flan_jax.sources.base import SourceError
from flan_jax.sources.tfds_folders import BuilderName
from flan_jax.suggestions import did_you_mean

_FORMAT = "array_record"
_INFO = "dataset_info.json"
_UNFINISHED = "flan_jax_converting"
# Raised by TFDS's downloader, by the HTTP library below it, and by builders' own code.
_NETWORK = ("DownloadError", "ConnectionError", "Timeout", "HTTPError", "URLError", "SSLError")


def prepare_builder(builder: str, data_dir: Path, *, manual_dir: Path) -> None:
    """Makes sure that a TFDS dataset is prepared in files that are read by index.

    A dataset that is prepared as TFRecords (as for T5X) gets ArrayRecord files beside them, and
    nothing is downloaded. Otherwise TFDS downloads and prepares the dataset. To be called again
    after an interruption: TFDS keeps what it has downloaded in `data_dir/downloads`, and neither
    it nor the conversion puts anything unfinished where the dataset will be sought.

    Args:
      builder: the builder's full name, ``super_glue/rte:1.0.2``.
      data_dir: where prepared datasets lie, see `flan_jax.sources.tfds_folders.tfds_folder`.
      manual_dir: where files lie that TFDS cannot download, see `manual_folder`.

    Raises:
      SourceError: there is no such builder, or it cannot be prepared; says what to do.
    """
    name = BuilderName.parse(builder)
    if name.prepared(data_dir) is not None:
        return
    sequential = name.sequential(data_dir)
    if sequential is not None:
        convert_to_indexed(sequential)
        return
    made = _builder(name, data_dir)
    try:
        _download_and_prepare(made, data_dir, manual_dir)
    except Exception as error:
        if name.prepared(data_dir) is None:  # else another process was faster
            raise explain_failure(name, made, error, data_dir, manual_dir) from error
    name.require(data_dir)


def _builder(name: BuilderName, data_dir: Path) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(str(name), data_dir=str(data_dir), file_format=_FORMAT)
    except Exception as error:
        raise explain_unknown(name, error) from error


def _download_and_prepare(made: Any, data_dir: Path, manual_dir: Path) -> None:
    import tensorflow_datasets as tfds

    made.download_and_prepare(
        download_dir=str(data_dir / "downloads"),
        download_config=tfds.download.DownloadConfig(manual_dir=str(manual_dir)),
    )


def convert_to_indexed(folder: Path) -> None:
    """Adds ArrayRecord files to a dataset that is prepared as TFRecords.

    The files are made in a folder of their own and moved when all are there. The dataset's own
    description names the new format before that, so that no moment leaves files that count as
    complete and cannot be read; `BuilderName.prepared` compares the two sets of files.

    Raises:
      SourceError: the files are damaged, or the dataset is too old to be read without its code.
    """
    from google.protobuf.json_format import ParseError
    from tensorflow_datasets.core import dataset_info, file_adapters

    try:
        info = dataset_info.read_proto_from_builder_dir(folder)
    except ParseError as error:
        raise SourceError(f"{folder / _INFO} is not what TFDS writes: {error}") from error
    unfinished = folder / _UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for file in sorted(folder.glob("*.tfrecord*")):
        target = unfinished / file.name.replace(".tfrecord", f".{_FORMAT}")
        file_adapters.ArrayRecordFileAdapter.write_examples(target, enumerate(_records(file)))
    if _FORMAT not in info.alternative_file_formats:
        info.alternative_file_formats.append(_FORMAT)
        write_atomically(folder / _INFO, dataset_info.get_dataset_info_json(info))
    for file in sorted(unfinished.iterdir()):
        file.replace(folder / file.name)
    unfinished.rmdir()


def _records(file: Path) -> Iterator[bytes]:
    """The records of a file of TFRecords, each checked by its checksum."""
    import tensorflow as tf

    try:
        for record in tf.data.TFRecordDataset(str(file)):
            yield bytes(record.numpy())
    except tf.errors.DataLossError as error:
        raise SourceError(
            f"{file} is damaged ({error.message}): remove the folder {file.parent} and fetch the "
            "dataset again, or copy the file from where it is whole"
        ) from error


def explain_unknown(name: BuilderName, error: Exception) -> SourceError:
    """What is wrong with a builder's name that TFDS refused with `error`."""
    import tensorflow_datasets as tfds

    builders = tfds.list_builders(with_community_datasets=False)
    if name.name not in builders:
        return SourceError(
            f"TFDS {name}: TFDS {tfds.__version__} has no builder {name.name!r} (a builder of your "
            f"own has to be imported first){did_you_mean(name.name, builders)}"
        )
    code = tfds.builder_cls(name.name)
    configs = code.builder_configs
    if name.config and name.config not in configs:
        known = f"only {', '.join([*configs][:20])}{' …' if len(configs) > 20 else ''}"
        return SourceError(
            f"TFDS {name}: {name.name} has no config {name.config!r}, "
            f"{known if configs else 'nor any other: leave it out'}"
            + did_you_mean(name.config, configs)
        )
    versions = _versions(code, configs.get(name.config))
    if versions and name.version not in versions:
        return SourceError(
            f"TFDS {name}: TFDS {tfds.__version__} has {name.name} at version "
            f"{', '.join(versions)} only. Use that one, or prepare {name.version} with the release "
            "of TFDS that had it and put it into the folder of prepared datasets"
        )
    return SourceError(f"TFDS {name} cannot be made: {type(error).__name__}: {error}")


def _versions(code: Any, config: Any) -> list[str]:
    """The versions that a builder's code knows, those of a config coming before its own."""
    if config is not None and config.version is not None:
        first, others = config.version, config.supported_versions
    else:
        first, others = code.VERSION, code.SUPPORTED_VERSIONS
    return [str(version) for version in (first, *(others or ())) if version is not None]


def explain_failure(
    name: BuilderName, made: Any, error: Exception, data_dir: Path, manual_dir: Path
) -> SourceError:
    """Why `download_and_prepare` failed with `error`, and what to do."""
    import tensorflow_datasets as tfds

    what = f"TFDS {name} cannot be prepared"
    found = f"{type(error).__name__}: {error}"
    kinds = {kind.__name__ for kind in type(error).__mro__}
    by_hand = made.MANUAL_DOWNLOAD_INSTRUCTIONS
    if "NonMatchingChecksumError" in kinds:
        return SourceError(
            f"{what}: a file that it downloads is not the one TFDS {tfds.__version__} was made "
            f"for. If the download was cut short, remove {data_dir / 'downloads'} and run this "
            "again; if it fails again, the publisher has changed the file: a newer release of "
            f"tensorflow-datasets may know it. ({error})"
        )
    if isinstance(error, ImportError):
        return SourceError(
            f"{what}: preparing this dataset needs the Python package {error.name!r}, which is not "
            f"installed; install it and run this again ({found})"
        )
    if any(part in kind for kind in kinds for part in _NETWORK):
        return SourceError(
            f"{what}: the download failed ({found}). Check the connection (and HTTPS_PROXY, if "
            "there is a proxy) and run this again: what is already downloaded is kept"
        )
    if by_hand and (isinstance(error, AssertionError | OSError) or "NotFoundError" in kinds):
        return SourceError(
            f"{what}: files are missing that TFDS cannot download. Put them into {manual_dir} and "
            f"run this again. TFDS says of them: {' '.join(by_hand.split())} ({found})"
        )
    return SourceError(
        f"{what}: {found}. What is already downloaded is kept; `{data_dir}` must be writable and "
        "have enough space"
    )
