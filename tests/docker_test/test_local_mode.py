"""Both SDKs in their local modes: jobs, endpoints and transforms on a real engine, files in S3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cloud import BUCKET, ROLE, Cloud
from conformance import JSON, LINES, WAYS, Served, conformance
from conftest import answered, hyperparameters, sources
from containers import PRETRAINED
from machine import need
from servers import free_port

import tfserve
from tfserve import archive

START = """
import json
from sagemaker.local import LocalSession
from tfserve.aws import sdk2

role = {role!r}
session = LocalSession()
session.config = {{"local": {{"local_code": True, "serving_port": {port},
                              "container_root": {folder!r}}}}}

def ask(predictor, requests):
    client = session.sagemaker_runtime_client
    return [
        client.invoke_endpoint(body, predictor.endpoint_name, content_type, accept, None, None)
        ["Body"].read().decode()
        for content_type, accept, body in requests
    ]

def tell(value):
    print("\\n" + json.dumps(value))  # the SDK prints dots without an end
"""


def start(folder: Path) -> str:
    """The beginning of a piece of Python: a local session, and a way to ask an endpoint."""
    need("docker-compose")
    folder.mkdir(exist_ok=True)
    return START.format(role=ROLE, port=free_port(), folder=str(folder))


def requests(served: Served) -> list[tuple[str, str, str]]:
    return [(content, accept, served.request(content)[0]) for content, accept in WAYS]


def check(surface: str, served: Served, texts: list[str]) -> None:
    found = dict(zip(WAYS, texts, strict=True))
    conformance.check(surface, served, lambda body, content, accept: found[content, accept])


def upload(aws: Cloud, prefix: str, folder: Path) -> str:
    """Its address in S3."""
    client = aws.client("s3")
    for file in folder.iterdir():
        client.upload_file(str(file), BUCKET, f"{prefix}/{file.name}")
    return f"s3://{BUCKET}/{prefix}"


def download(aws: Cloud, prefix: str) -> str:
    """The one file under ``prefix``."""
    [found] = aws.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
    body = aws.client("s3").get_object(Bucket=BUCKET, Key=found["Key"])["Body"]
    return str(body.read().decode())


def test_version_2_serves_and_transforms_every_kind_of_model(
    served: Served, inference_image: str, aws: Cloud, tmp_path: Path
) -> None:
    name = served.kind.replace(" ", "-")
    (tmp_path / "archive").mkdir()
    archive.package(served.model, tmp_path / "archive" / "model.tar.gz")
    (tmp_path / "in").mkdir()
    lines, _ = served.request(LINES)
    (tmp_path / "in" / "asked.jsonl").write_text(lines + "no JSON\n", "utf-8")
    texts = aws.run("2", start(tmp_path / "local") + f"""
model = sdk2.model({upload(aws, f"{name}/model", tmp_path / "archive")!r} + "/model.tar.gz",
                   role=role, image_uri={inference_image!r}, sagemaker_session=session,
                   environment={{"TFSERVE_PRECISION": "fp32"}})
predictor = sdk2.endpoint(model, {name!r}, instance_type="local")
texts = ask(predictor, {requests(served)!r})
predictor.delete_endpoint()
sdk2.batch_transform(model, {upload(aws, f"{name}/in", tmp_path / "in")!r},
                     "s3://{BUCKET}/{name}/out", instance_type="local")
tell(texts)
""")  # fmt: skip
    check("endpoint of SDK 2's local mode", served, texts)
    # Local mode puts a line break of its own behind each mini-batch.
    *answers, bad, blank = download(aws, f"{name}/out").splitlines(keepends=True)
    assert json.loads(bad)["error"]["line"] == len(served.records) + 1
    assert blank == "\n"
    text = "".join(answers)
    surface = "Batch Transform of SDK 2's local mode"
    conformance.check(surface, served, lambda *_: text, [(LINES, LINES)])


def test_version_2_transforms_line_by_line_and_whole_files(
    inference_image: str, aws: Cloud, tmp_path: Path
) -> None:
    pretrained, data = sources("classif", tmp_path / "sources")
    tfserve.train(
        hyperparameters("classif", pretrained), train_dir=data, model_dir=tmp_path / "model"
    )
    made = answered("classif", tmp_path / "model")
    for folder in ("archive", "lines", "document"):
        (tmp_path / folder).mkdir()
    archive.package(made.model, tmp_path / "archive" / "model.tar.gz")
    lines, document = made.request(LINES)[0] + "no JSON\n", made.request(JSON)[0]
    (tmp_path / "lines" / "asked.jsonl").write_text(lines, "utf-8")
    (tmp_path / "document" / "asked.json").write_text(document, "utf-8")
    uris = {name: upload(aws, f"whole/{name}", tmp_path / name) for name in ("lines", "document")}
    aws.run("2", start(tmp_path / "local") + f"""
model = sdk2.model({upload(aws, "whole/model", tmp_path / "archive")!r} + "/model.tar.gz",
                   role=role, image_uri={inference_image!r}, sagemaker_session=session,
                   environment={{"TFSERVE_PRECISION": "fp32"}})
def transform(data, output, content_type, **how):
    job = model.transformer(1, "local", output_path="s3://{BUCKET}/answered/" + output,
                            accept=content_type, **how)
    job.transform(data, content_type=content_type, split_type=how.get("assemble_with"))
transform({uris["lines"]!r}, "single", {LINES!r}, strategy="SingleRecord", assemble_with="Line")
transform({uris["lines"]!r}, "file-of-lines", {LINES!r}, strategy="SingleRecord")
transform({uris["document"]!r}, "document", {JSON!r}, strategy="SingleRecord")
tell(None)
""")  # fmt: skip
    single = [line for line in download(aws, "answered/single").splitlines() if line]
    whole = download(aws, "answered/file-of-lines").splitlines()
    for surface, found, place in (
        ("Batch Transform, SingleRecord", single, 1),
        ("Batch Transform, a file at a time", whole, len(made.records) + 1),
    ):
        assert json.loads(found.pop())["error"]["line"] == place
        texts = {LINES: "\n".join(found), JSON: download(aws, "answered/document")}
        ways = [(LINES, LINES)] if place == 1 else [(LINES, LINES), (JSON, JSON)]
        conformance.check(surface, made, lambda _, __, accept, of=texts: of[accept], ways)


def job_sources(aws: Cloud, folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Hyperparameters of a job and its channels."""
    pretrained, data = sources(kind, folder / "sources")
    channels = {"train": upload(aws, f"{folder.name}/train", data)}
    channels["model"] = upload(aws, f"{folder.name}/model", pretrained)
    return hyperparameters(kind, PRETRAINED), channels


def test_version_2_trains_a_model_that_it_serves(
    training_image: str, inference_image: str, aws: Cloud, tmp_path: Path
) -> None:
    hparams, channels = job_sources(aws, tmp_path, "ner")
    model = tmp_path / "model"
    aws.run("2", start(tmp_path / "local") + f"""
estimator = sdk2.estimator({hparams!r}, role=role, instance_type="local",
                           image_uri={training_image!r}, sagemaker_session=session,
                           output_path="file://{tmp_path}/out")
estimator.fit({channels!r})
tell(estimator.model_data)
""")  # fmt: skip
    archive.unpack(tmp_path / "out" / "model.tar.gz", model)
    made = answered("ner", model)
    texts = aws.run("2", start(tmp_path / "local") + f"""
model = sdk2.model("file://{tmp_path}/out/model.tar.gz", role=role, sagemaker_session=session,
                   image_uri={inference_image!r}, environment={{"TFSERVE_PRECISION": "fp32"}})
predictor = sdk2.endpoint(model, "trained", instance_type="local")
texts = ask(predictor, {requests(made)!r})
predictor.delete_endpoint()
tell(texts)
""")  # fmt: skip
    check("job and endpoint of SDK 2's local mode", made, texts)


def test_version_3_trains_a_model(training_image: str, aws: Cloud, tmp_path: Path) -> None:
    need("docker-compose")
    hparams, channels = job_sources(aws, tmp_path, "classif")
    (tmp_path / "local").mkdir()
    aws.run("3", f"""
import json
from sagemaker.train.model_trainer import Mode
from tfserve.aws import sdk3
job = sdk3.trainer({hparams!r}, role={ROLE!r}, instance_type="local_cpu",
                   training_image={training_image!r}, training_mode=Mode.LOCAL_CONTAINER,
                   local_container_root={str(tmp_path / "local")!r})
job.train(sdk3.channels({channels!r}))
print("null")
""")  # fmt: skip
    archive.unpack(tmp_path / "local" / "compressed_artifacts" / "model.tar.gz", tmp_path / "model")
    made = answered("classif", tmp_path / "model")
    labels = [row.rpartition("\t")[2] for row in _rows(tmp_path / "sources" / "data" / "train.csv")]
    assert set(made.predictor.task.labels) == set(labels)
    assert {answer["pred"] for answer in made.answers} <= set(labels)


def _rows(table: Path) -> list[str]:
    return table.read_text("utf-8").splitlines()[1:]
