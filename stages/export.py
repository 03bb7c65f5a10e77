"""Write the trained network as ONNX, one file that other programs can run.

Reads the model and the test images. Runs the file and the network on all of them, and writes how far the results lie
apart. A file that does not agree with the network is not written.
"""

from cifar.system.stage import start_stage

start_stage(__name__)

from cifar.data.splits import load_classes, load_split
from cifar.nn.exported import compare, run_onnx, to_onnx
from cifar.nn.inference import predict
from cifar.nn.saved import FOLDER, check_fits, load_model
from cifar.system.device import pick_device, prepare
from cifar.system.files import replacing, write_json
from cifar.system.stage import run

FILE = FOLDER / "model.onnx"


def main() -> None:
    prepare(deterministic=True)
    model = load_model()
    images = load_split("test").images
    check_fits(model, load_classes(), images.shape[1])

    content = to_onnx(model)
    logits = predict(model.network.to(pick_device()), images, model.statistics)
    found = compare(run_onnx(content, images), logits)

    with replacing(FILE) as part:
        part.write_bytes(content)
    write_json("metrics/export.json", found)
    largest, differing = found["onnx_difference"], found["onnx_differing"]
    said = f"logits differ by at most {largest}, {differing} classes"
    print(f"ONNX against the network, on {len(images)} test images: {said}")
    print(f"written: {FILE} ({len(content) / 1e6:.1f} MB), metrics/export.json")


if __name__ == "__main__":
    run(main)
