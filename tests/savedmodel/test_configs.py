"""Files of savedmodel/ in the formats of TensorFlow Serving, Docker and Kubernetes: each is parsed with its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("tensorflow_serving", reason="needs the extra 'serving'")

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2  # noqa: E402
from tensorflow_serving.config import model_server_config_pb2  # noqa: E402

from keras_dlrm.serving import ModelConfig, read_config  # noqa: E402

pytestmark = pytest.mark.neutral

FOLDER = Path(__file__).resolve().parents[2] / "savedmodel"
# Flags of tensorflow_model_server.
FLAGS = {
    "model_config_file", "model_config_file_poll_wait_seconds", "allow_version_labels_for_unavailable_models",
    "monitoring_config_file", "grpc_max_threads", "rest_api_num_threads", "tensorflow_intra_op_parallelism",
    "tensorflow_inter_op_parallelism", "enable_batching", "batching_parameters_file", "enable_per_model_batching_parameters",
}  # fmt: skip


def described():
    """BatchingParameters and MonitoringConfig: the wheel of tensorflow-serving-api leaves these two out.

    The text form of a message needs the names and types of its fields, which are those of TensorFlow Serving 2.21's
    session_bundle_config.proto and monitoring_config.proto.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="serving.proto", package="serving", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    messages = {
        "BatchingParameters": {
            "max_batch_size": "Int64Value", "batch_timeout_micros": "Int64Value", "max_enqueued_batches": "Int64Value",
            "num_batch_threads": "Int64Value", "thread_pool_name": "StringValue", "allowed_batch_sizes": [field.TYPE_INT64],
            "pad_variable_length_inputs": field.TYPE_BOOL, "enable_large_batch_splitting": "BoolValue",
        },
        "PrometheusConfig": {"enable": field.TYPE_BOOL, "path": field.TYPE_STRING},
        "MonitoringConfig": {"prometheus_config": ".serving.PrometheusConfig"},
    }  # fmt: skip
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, (key, kind) in enumerate(fields.items(), start=1):
            entry = message.field.add(name=key, number=number, label=field.LABEL_OPTIONAL)
            if isinstance(kind, list):
                entry.label, entry.type = field.LABEL_REPEATED, kind[0]
            elif isinstance(kind, str):
                entry.type = field.TYPE_MESSAGE
                entry.type_name = kind if kind[0] == "." else f".google.protobuf.{kind}"
            else:
                entry.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"serving.{name}")) for name in messages}


def batching(name):
    return text_format.Parse((FOLDER / name).read_text(), described()["BatchingParameters"]())


def monitoring(text):
    return text_format.Parse(text, described()["MonitoringConfig"]())


def flags(arguments):
    found = {}
    for argument in arguments:
        name, _, value = re.fullmatch(r"--([a-z_]+)(=(.*))?", argument).groups()
        found[name] = value
    return {name: value.lstrip("=") if value else value for name, value in found.items()}


def test_models_config_is_a_model_server_config():
    parsed = text_format.Parse((FOLDER / "models.config").read_text(), model_server_config_pb2.ModelServerConfig())
    (model,) = parsed.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("clicks", "/models/clicks", "tensorflow")
    assert dict(model.version_labels) == {"stable": 1, "canary": 1}
    assert list(model.model_version_policy.specific.versions) == [1]
    labelled = set(model.version_labels.values())
    assert labelled <= set(model.model_version_policy.specific.versions), "a label points to a version that is loaded"


def test_the_stand_in_reads_the_same_file():
    labels = {"stable": 1, "canary": 1}
    expected = ModelConfig("clicks", Path("/models/clicks"), versions=(1,), labels=labels)
    assert read_config(FOLDER / "models.config") == [expected]


def test_monitoring_config():
    parsed = monitoring((FOLDER / "monitoring.config").read_text())
    assert parsed.prometheus_config.enable
    assert parsed.prometheus_config.path == "/monitoring/prometheus/metrics"


def test_batching_parameters():
    shared, own = batching("batching.config"), batching("batching_params.pbtxt")
    assert shared.num_batch_threads.value >= 1
    assert own.max_batch_size.value >= 1 and own.max_enqueued_batches.value >= 1
    assert 0 < own.batch_timeout_micros.value <= 2000
    assert not own.allowed_batch_sizes or own.allowed_batch_sizes[-1] == own.max_batch_size.value


def test_the_compose_file_publishes_ports_on_this_machine_alone():
    service = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["serving"]
    assert service["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]


def test_the_compose_file_starts_the_stock_image_with_flags_that_it_has():
    service = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["serving"]
    assert re.fullmatch(r"tensorflow/serving:\d+\.\d+\.\d+", service["image"])
    assert set(flags(service["command"])) <= FLAGS
    mounts = {mount.split(":")[1] for mount in service["volumes"]}
    for name, value in flags(service["command"]).items():
        if name.endswith("_file"):
            folder, file = value.rsplit("/", 1)
            assert folder in mounts and (FOLDER / file).is_file()
    assert "/models" in mounts
    assert "/v1/models/clicks/labels/stable/metadata" in service["healthcheck"]["test"][-1]


def test_the_kubernetes_manifest_agrees_with_the_other_files():
    config, deployment, service = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    assert [part["kind"] for part in (config, deployment, service)] == ["ConfigMap", "Deployment", "Service"]
    models = [config["data"]["models.config"], (FOLDER / "models.config").read_text()]
    mine, theirs = (text_format.Parse(text, model_server_config_pb2.ModelServerConfig()) for text in models)
    assert mine == theirs
    watched = monitoring(config["data"]["monitoring.config"])
    assert str(watched) == str(monitoring((FOLDER / "monitoring.config").read_text()))
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["serving"]
    assert container["image"] == compose["image"]
    assert flags(container["args"]) == flags(compose["command"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "rest": 8501}
    assert container["readinessProbe"]["httpGet"] == {
        "path": "/v1/models/clicks/labels/stable/metadata",
        "port": "rest",
    }
    assert set(container["resources"]) == {"requests", "limits"}
    parallelism = flags(container["args"])["tensorflow_intra_op_parallelism"]
    assert container["resources"]["limits"]["cpu"] == parallelism
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["spec"]["volumes"]
    }
    for labels in (deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]):
        assert labels.items() <= pod["metadata"]["labels"].items()
    assert {port["targetPort"] for port in service["spec"]["ports"]} == set(ports)
    stop = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["spec"]["terminationGracePeriodSeconds"] > stop + 10
    annotations = pod["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == watched.prometheus_config.path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_config_list {{", "models.config: 1:"),
        ("", "it lists no model; it needs model_config_list { config { … } }."),
        ('model_config_list { config { name: "a" base_path: "/x" } }', 'model_platform \'\' must be "tensorflow".'),
        ('model_config_list { config { name: "a" model_platform: "tensorflow" } }', "model 'a': it has no base_path."),
        ('model_config_list { config { name: "a b" base_path: "/x" model_platform: "tensorflow" } }', "name 'a b' must have"),
        ("model_config_list {" + 2 * 'config { name: "a" base_path: "/x" model_platform: "tensorflow" }' + "}", "listed twice"),
        ('model_config_list { config { name: "a" base_path: "/x" model_platform: "tensorflow" '
         "model_version_policy { specific {} } } }", "'specific' lists no version"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_served_is_named_with_its_file(tmp_path, text, message):
    path = tmp_path / "models.config"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("policy", "expected"), [
    ("", [3]), ("latest { num_versions: 2 }", [2, 3]), ("all {}", [1, 2, 3]), ("specific { versions: 1 versions: 3 }", [1, 3]),
])  # fmt: skip
def test_policies_choose_versions(tmp_path, policy, expected):
    path = tmp_path / "models.config"
    path.write_text(
        'model_config_list { config { name: "a" base_path: "x" model_platform: "tensorflow" '
        f"model_version_policy {{ {policy} }} }} }}"
    )
    (model,) = read_config(path)
    assert model.base_path == tmp_path / "x"
    assert model.wanted([1, 2, 3]) == expected
