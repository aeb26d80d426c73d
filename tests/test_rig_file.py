import pytest
import yaml

from bev_runtime.errors import ConfigError
from bev_runtime.rig import Rig, load_rig

RIG = """
cameras:
  left: {topic: /left/image, info_topic: /left/camera_info}
  right:
    topic: /right/image
    calibration:
      width: 640
      height: 480
      intrinsics: [500, 0, 320, 0, 500, 240, 0, 0, 1]
      distortion_model: plumb_bob
      distortion: [0.1, 0, 0, 0, 0]
      base_from_camera: {translation: [1, 0, 1.5], rotation_xyzw: [-0.5, 0.5, -0.5, 0.5]}
lidar: {name: top, topic: /points, rate_hz: 2}
timing: {max_wait_s: 0.05}
"""


def load(tmp_path, text: str) -> Rig:
    path = tmp_path / "rig.yaml"
    path.write_text(text)
    return load_rig(path)


def test_a_rig_file_is_read_with_order_calibration_and_defaults(tmp_path):
    rig = load(tmp_path, RIG)
    assert rig.sensor_names == ("left", "right", "top")
    assert rig.reference_sensor == "top"
    assert rig.timing.max_wait_s == 0.05
    assert rig.timeout_s("top") == 1.25
    assert rig.timeout_s("left") == 0.3
    given = rig.cameras["right"].calibration
    assert given is not None
    assert given.base_from_camera is not None
    model = given.camera_model(given.base_from_camera.matrix())
    assert model.distortion.model == "plumb_bob"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("camera: {}", "camera: unknown key"),
        ("timing: {max_wait_s: -1}", "timing.max_wait_s.*greater than 0"),
        ("reference: top_left", "reference 'top_left' is no sensor"),
        ("lidar: {name: left, topic: /p}", "given to a camera and to the LiDAR"),
        ("lidar: {name: top, topic: /left/image}", "given to two sensors"),
        ("cameras: {a: {topic: 3}}", "cameras.a.topic"),
        ("cameras: [a]", "cameras"),
        ("fixed_frame: 2020-01-01", "not plain data"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: !!python/object/apply:os.system ['true']", "not plain YAML"),
        ("cameras: &y {}\ncameras: {}", "stand twice"),
        ("a: !!int ''", "not plain"),
        ("- a", "expected a mapping"),
        ("a: [", "not plain YAML"),
    ],
)
def test_a_wrong_rig_file_is_explained(tmp_path, change, message):
    data = yaml.safe_load(RIG)
    try:
        extra = yaml.safe_load(change)
    except (yaml.YAMLError, IndexError):
        extra = None
    text = (
        yaml.safe_dump({**data, **extra})
        if isinstance(extra, dict) and "&" not in change
        else change
    )
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_a_huge_or_missing_rig_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_rig(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="expected at most"):
        load(tmp_path, "#" * (1 << 21))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[-0.5, 0.5, -0.5, 0.5]", "[0, 0, 0, 0]", "norm 0"),
        ("[500, 0, 320, 0, 500, 240, 0, 0, 1]", "[0, 0, 0, 0, 0, 0, 0, 0, 0]", "cannot project"),
        ("plumb_bob", "thin_prism", "unknown"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused_at_load(tmp_path, old, new, message):
    with pytest.raises(ConfigError, match=rf"(?s)cameras\.right\.calibration.*{message}"):
        load(tmp_path, RIG.replace(old, new))
