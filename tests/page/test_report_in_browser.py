"""The report page in a browser: its arithmetic is Keras', and it can be used by pen, by keys and on a phone."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from experiments.oracles import in_double
from mnist_minimal import load
from mnist_minimal.analysis.published import PUBLISHED
from mnist_minimal.data import sets
from mnist_minimal.data.choice import Choice
from mnist_minimal.models import MODELS
from mnist_minimal.models.normalization import InstanceNormalization
from mnist_minimal.page.network import describe
from mnist_minimal.page.report import write_report
from mnist_minimal.saving.saved_model import save
from mnist_minimal.training.evaluation import evaluate, probabilities
from tests.conftest import MNIST_PATH
from tests.page.test_report import HOSTILE, check_references
from tests.study.test_ledger import FAILED, TRIAL, append_row

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs the browser Chromium on the path")

IMAGES = 200

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=60000",
]

# A window has a least width, a frame in it has not. What is around the page can't look into it and is sent its answer.
FRAME = """<!DOCTYPE html><iframe src="{source}" style="width: {width}px; height: 800px; border: 0"></iframe>
<pre id="answer"></pre>
<script>
addEventListener("message", (event) => {{
    document.getElementById("answer").textContent = event.data;
}});
</script>
"""


# Where nobody looks the browser draws no frames; a timer stands for them, which the browser's virtual time waits for.
TIMED_FRAMES = "window.requestAnimationFrame = (draw) => setTimeout(draw, 16);"


def in_browser(page: Path, program: str, width: int = 1000):
    """Opens a copy of a page from its file, with a program at the end, and gives what the program returns.

    The program is the body of an async function, in which `await frame()` waits until the page has shown what changed.
    The page's policy forbids every script but its own; the copy's allows those added here too.
    """
    script = f"""
        const frame = () => new Promise((done) => setTimeout(done, 40));
        (async () => {{ {program} }})().then((value) => ({{value}}), (error) => ({{error: error.stack}}))
            .then((answer) => parent.postMessage(JSON.stringify(answer), "*"));"""
    content = page.read_text(encoding="utf-8")
    for added in (script, TIMED_FRAMES):
        digest = base64.b64encode(hashlib.sha256(added.encode()).digest()).decode()
        content = content.replace("script-src", f"script-src 'sha256-{digest}'", 1)
    content = content.replace("<body>", f"<body><script>{TIMED_FRAMES}</script>", 1)
    copy, frame = page.with_name("copy.html"), page.with_name("frame.html")
    copy.write_text(content.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    frame.write_text(FRAME.format(source=copy.name, width=width), encoding="utf-8")
    finished = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={page.parent}/profile", "--dump-dom", frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    found = re.search(r'<pre id="answer">(.+?)</pre>', finished.stdout, re.DOTALL)
    assert found, finished.stderr
    answer = json.loads(html.unescape(found[1]))
    assert "error" not in answer, answer["error"]
    return answer.get("value")


@pytest.fixture(scope="module")
def dataset():
    """MNIST where the user has it, else the digits."""
    return sets.load(Choice("digits") if MNIST_PATH is None else Choice("mnist", MNIST_PATH))


def stirred(model: keras.Model, images: np.ndarray) -> keras.Model:
    """The model with random weights, biases and statistics, by which it tells some of the images from others."""
    for seed in range(100):
        random = np.random.default_rng(seed)
        for variable in model.weights:
            # Kernels keep about the size of what runs through them; each sum of a depthwise kernel has one channel.
            inputs = np.prod(variable.shape[: 2 if variable.name == "depthwise_kernel" else -1])
            spread = (9 / inputs) ** 0.5 if len(variable.shape) > 1 else 0.5
            middle = 1.0 if variable.name in ("gamma", "moving_variance") else 0.0
            variable.assign(random.uniform(middle - spread, middle + spread, variable.shape))
        if probabilities(model, images).std(axis=0).max() > 0.05:
            return model
    raise AssertionError("no weights found that tell images from each other")


@pytest.fixture(scope="module")
def page(tmp_path_factory, dataset):
    """A report of one trial of sep997, its weights random, and one failure; every text in its files is hostile."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "sep997").mkdir()
    model = stirred(MODELS["sep997"](), dataset.x_test[:IMAGES])
    save(model, folder / "sep997/0.h5")
    found = evaluate(model, dataset.x_test, dataset.y_test)
    hostile = {"version": HOSTILE, "backend": HOSTILE, "weights": HOSTILE}
    trial = replace(TRIAL, dataset=dataset.name, test_correct=found.correct, test_size=found.size, **hostile)
    append_row(folder / "sep997.csv", trial)
    append_row(folder / "sep997.csv", replace(FAILED, seed=1, dataset=dataset.name, reason=HOSTILE))
    (folder / "sep997.json").write_text(json.dumps({"versions": {HOSTILE: HOSTILE}}))
    header = "epoch,accuracy,learning_rate,loss,val_accuracy,val_loss\n"
    (folder / "sep997/0.csv").write_text(f"{header}0,0.9,0.01,0.3,0.95,0.2\n1,0.95,0.001,0.2,0.98,0.1\n")
    choice = Choice("digits") if MNIST_PATH is None else Choice("mnist", MNIST_PATH)
    assert write_report([folder], folder / "report.html", choice, PUBLISHED) == []
    return folder / "report.html"


def mixed() -> keras.Model:
    """Every layer that the page knows, with uneven windows, strides and padding."""
    chain = [
        layers.Rescaling(1 / 78.6, offset=-0.42),
        layers.Conv2D(6, (5, 4), strides=2, padding="same", use_bias=False),
        layers.BatchNormalization(epsilon=0.01),
        layers.ReLU(),
        layers.MaxPooling2D(3, strides=2, padding="same"),
        layers.SeparableConv2D(7, (2, 3), padding="same", activation="relu"),
        InstanceNormalization(),
        layers.AveragePooling2D((2, 3), strides=1, padding="same"),
        layers.BatchNormalization(scale=False, center=False),
        layers.LeakyReLU(0.3),
        layers.AveragePooling2D(2),
        layers.Dense(5),
        layers.GlobalAveragePooling2D(keepdims=True),
        layers.Conv2D(11, 1),
        layers.Flatten(),
        layers.Dense(10, use_bias=False),
        layers.Softmax(),
    ]
    return keras.Sequential([keras.Input((28, 28, 1)), *chain], name="mixed")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("sep997", 20),
        ("mixed", 20),
        *(pytest.param(name, IMAGES, marks=pytest.mark.slow) for name in [*MODELS, "mixed"]),
    ],
)
def test_the_page_computes_what_keras_does(page, dataset, name, count):
    images = dataset.x_test[:count]
    build = mixed if name == "mixed" else MODELS[name]
    model = stirred(build(), images)
    program = f"""
        const network = {json.dumps(describe(model))};
        const images = {json.dumps(images.reshape(count, -1).tolist())};
        return images.map((pixels) => window.mnistMinimal.classify(pixels, network));"""
    found = np.array(in_browser(page, program))
    assert found.shape == (count, 10)
    # In float32 Keras itself is up to 2e-5 off.
    expected = in_double(model)(images.astype(np.float64), training=False)
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(expected), rtol=0, atol=1e-5)


def test_the_network_in_the_page_is_the_saved_one_and_the_examples_are_test_images(page, dataset):
    expected = probabilities(load(page.parent / "sep997/0.h5"), dataset.x_test)
    right = expected.argmax(axis=1) == dataset.y_test
    places = [np.flatnonzero(right & (dataset.y_test == label))[:1] for label in range(10)]
    places = np.concatenate([*places, np.flatnonzero(~right)[:5]])
    program = """
        const found = [];
        for (const button of document.querySelectorAll("#examples button")) {
            button.click();
            await frame();
            found.push([document.getElementById("verdict").textContent, button.getAttribute("aria-label")]);
        }
        return found;"""
    found = in_browser(page, program)
    assert len(found) == len(places)
    for place, (verdict, name) in zip(places, found, strict=True):
        most = expected[place].argmax()
        assert verdict.startswith(f"Most probable: {most} ({100 * expected[place, most]:.1f}\u00a0%)")
        assert name.startswith(f"Example: a {dataset.y_test[place]}")


def test_a_drawing_is_scaled_to_twenty_pixels_and_centred_by_its_mass(page):
    # A bar of 60 x 120 points becomes 10 x 20 pixels in the middle. With a foot that makes it 120 wide, it is 20 x 20,
    # and its mass lies to the left: 200 pixels around column 5 and 50 around column 15 have their centre at column 7,
    # so that the box begins at column 14 - 7; of its rows, at 11.5, so that it begins at row 2.5, rounded up.
    program = """
        const draw = (boxes) => {
            const ink = new Float32Array(280 * 280);
            for (const [top, bottom, left, right] of boxes)
                for (let y = top; y < bottom; y++) ink.fill(1, 280 * y + left, 280 * y + right);
            return Array.from(window.mnistMinimal.imageOf(ink));
        };
        return [draw([[10, 130, 200, 260]]), draw([[10, 130, 140, 200], [100, 130, 200, 260]]), draw([])];"""
    bar, foot, bare = (np.array(image).reshape(28, 28) for image in in_browser(page, program))
    expected = np.zeros((28, 28))
    expected[4:24, 9:19] = 255
    np.testing.assert_array_equal(bar, expected)
    expected = np.zeros((28, 28))
    expected[3:23, 7:17] = 255
    expected[18:23, 17:27] = 255
    np.testing.assert_array_equal(foot, expected)
    assert not bare.any()


def test_images_of_mnist_come_back_as_they_are(page, dataset, mnist_path):
    # They were made in this way, so that making them again moves them by a pixel at most. The source's resampling left
    # some in a box smaller than 20 x 20; these would grow and are left out.
    images = [image for image in dataset.x_test[:IMAGES, ..., 0] if max(np.ptp(np.nonzero(image), axis=1)) == 19]
    assert len(images) > IMAGES / 2
    program = f"""
        const {{inkOf, imageOf}} = window.mnistMinimal;
        const images = {json.dumps([image.ravel().tolist() for image in images])};
        return images.map((pixels) => Array.from(imageOf(inkOf(pixels))));"""
    for image, again in zip(images, in_browser(page, program), strict=True):
        shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        differences = [np.abs(np.roll(image, shift, (0, 1)) - np.reshape(again, (28, 28))).max() for shift in shifts]
        assert min(differences) == 0


def test_a_digit_can_be_drawn_with_keys(page):
    program = """
        const board = document.getElementById("board");
        const seen = () => {
            const canvas = document.getElementById("seen");
            const pixels = canvas.getContext("2d").getImageData(0, 0, 28, 28).data;
            return pixels.filter((value, index) => index % 4 === 0 && value < 255).length;
        };
        const state = async () => {
            await frame();
            return [document.getElementById("verdict").textContent, seen()];
        };
        const press = (key, times, shiftKey = false) => {
            for (let time = 0; time < times; time++)
                board.dispatchEvent(new KeyboardEvent("keydown", {key, shiftKey, bubbles: true, cancelable: true}));
        };
        document.getElementById("clear").click();
        board.focus();
        const states = [await state()];
        press("ArrowUp", 8);
        states.push(await state());
        press(" ", 1);
        states.push(await state());
        press("ArrowDown", 16, true);
        states.push(await state());
        press("ArrowRight", 100, true);
        states.push(await state());
        const tab = new KeyboardEvent("keydown", {key: "Tab", bubbles: true, cancelable: true});
        return [states, board.dispatchEvent(tab)];"""
    (bare, moved, dot, stroke, corner), tab_goes_on = in_browser(page, program)
    assert bare == moved == ["Nothing drawn yet.", 0]
    # A dot fills the box of 20 x 20 but for its corners; a stroke 16 cells long is a bar of 2.2 of 18.2 cells.
    assert dot[0].startswith("Most probable:")
    assert 280 < dot[1] < 400
    assert 40 <= stroke[1] <= 80
    assert corner[1] > stroke[1]
    assert len({dot[0], stroke[0], corner[0]}) > 1
    assert tab_goes_on, "the board keeps the focus for itself"


def test_a_digit_can_be_drawn_with_a_pen_and_takes_an_example_away(page):
    program = """
        const board = document.getElementById("board");
        board.setPointerCapture = () => {};  // It knows no pointer that no device has.
        const box = board.getBoundingClientRect();
        const point = (type, x, y) => board.dispatchEvent(new PointerEvent(type, {
            pointerId: 1, pointerType: "pen", button: 0, bubbles: true,
            clientX: box.left + x * box.width, clientY: box.top + y * box.height}));
        const ink = () => {
            const pixels = board.getContext("2d").getImageData(0, 0, 280, 280).data;
            const dark = [];
            for (let index = 0; index < 280 * 280; index++)
                if (pixels[4 * index] < 128) dark.push([index % 280, Math.floor(index / 280)]);
            return [0, 1].map((axis) => [Math.min(...dark.map((place) => place[axis])),
                                         Math.max(...dark.map((place) => place[axis]))]);
        };
        document.querySelector("#examples button").click();
        point("pointerdown", 0.5, 0.25);
        point("pointermove", 0.5, 0.75);
        point("pointerup", 0.5, 0.75);
        point("pointermove", 0.9, 0.9);
        await frame();
        return [ink(), document.getElementById("verdict").textContent];"""
    (across, down), verdict = in_browser(page, program)
    # From (140, 70) to (140, 210) with a pen of radius 11; what came after the pen was lifted left nothing.
    np.testing.assert_allclose(across, [129, 150], atol=1)
    np.testing.assert_allclose(down, [59, 220], atol=1)
    assert verdict.startswith("Most probable:")


@pytest.mark.parametrize("width", [360, 1000])
def test_nothing_is_wider_than_the_screen(page, width):
    program = """
        const wide = Array.from(document.body.querySelectorAll("*")).filter((element) =>
            !element.closest(".table table, svg") && element.getBoundingClientRect().right > innerWidth + 0.5);
        return [innerWidth, document.documentElement.scrollWidth, wide.map((element) => element.outerHTML)];"""
    inner, scrolled, wide = in_browser(page, program, width)
    assert inner == width
    assert scrolled <= width
    assert wide == []


def test_what_can_be_used_can_be_focused_and_has_a_name(page):
    program = """
        const text = (element) => element?.textContent.trim() ?? "";
        const name = (element) => element.getAttribute("aria-label")
            || (element.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => text(document.getElementById(id)))
                .join(" ").trim()
            || text(element.labels?.[0]) || text(element);
        const used = document.querySelectorAll("a, button, select, input, summary, canvas[tabindex], [role=region]");
        return Array.from(used, (element) => {
            element.focus();
            return [element.tagName, name(element), document.activeElement === element,
                    getComputedStyle(element).outlineStyle];
        });"""
    used = in_browser(page, program)
    assert {"BUTTON", "SELECT", "SUMMARY", "CANVAS", "DIV"} <= {tag for tag, *_ in used}
    assert all(name for _, name, *_ in used), used
    assert all(focused for _, _, focused, _ in used), used


def test_every_reference_finds_its_id(page):
    check_references(page.read_text(encoding="utf-8"))


def test_pictures_have_texts(page):
    program = """
        const pictures = document.querySelectorAll("img, [role=img], svg[role]");
        return Array.from(pictures, (picture) => picture.getAttribute("alt") || picture.getAttribute("aria-label")
            || picture.querySelector("desc")?.textContent);"""
    texts = in_browser(page, program)
    assert len(texts) > 20
    assert all(texts)


def test_what_a_file_says_is_not_run(page):
    program = """
        const scripts = Array.from(document.scripts, (script) => script.type);
        return [window.taken ?? null, scripts, document.body.textContent.split("window.taken").length];"""
    taken, scripts, times = in_browser(page, program)
    assert taken is None
    assert scripts == ["", "application/json", "", ""]
    assert times > 4
