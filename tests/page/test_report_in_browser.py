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

from experiments.leads import SEARCHED
from experiments.oracles import in_double
from mnist_minimal import load
from mnist_minimal.analysis.published import PUBLISHED
from mnist_minimal.data import sets
from mnist_minimal.data.choice import Choice
from mnist_minimal.models import MODELS
from mnist_minimal.models.normalization import InstanceNormalization
from mnist_minimal.page.network import describe
from mnist_minimal.page.report import write_report
from mnist_minimal.recipes import PUBLISHED_RECIPES
from mnist_minimal.saving.saved_model import save
from mnist_minimal.training.evaluation import evaluate, probabilities
from tests.conftest import MNIST_PATH
from tests.page.test_report import HOSTILE, check_references
from tests.study.test_ledger import FAILED, TRIAL, append_row

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs the browser Chromium on the path")

IMAGES = 200

EPOCHS = {name: recipe.max_epochs for name, recipe in PUBLISHED_RECIPES.items()}

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

# The browser's numbers of them.
SCHEMES = {"dark": 0, "light": 1}

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


def in_browser(page: Path, program: str, width: int = 1000, scheme: str = "light"):
    """Opens a copy of a page from its file, with a program at the end, and gives what the program returns.

    The page is light or dark as the reader's system wants it. The program is the body of an async function, in which
    `await frame()` waits until the page has shown what changed. The page's policy forbids every script but its own; the
    copy's allows those added here too.
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
        [
            BROWSER,
            *FLAGS,
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
            f"--user-data-dir={page.parent}/profile",
            "--dump-dom",
            frame.as_uri(),
        ],
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
            inputs = np.prod(variable.shape[: 2 if "depthwise" in variable.path else -1])
            spread = (9 / inputs) ** 0.5 if len(variable.shape) > 1 else 0.5
            middle = 1.0 if variable.name in ("gamma", "moving_variance") else 0.0
            variable.assign(random.uniform(middle - spread, middle + spread, variable.shape))
        if probabilities(model, images).std(axis=0).max() > 0.05:
            return model
    raise AssertionError("no weights found that tell images from each other")


@pytest.fixture(scope="module")
def page(tmp_path_factory, dataset):
    """A report of two trials of sep997 and one of sep697, their weights random; every text in its files is hostile."""
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
    for name, seed in (("sep997", 5), ("sep697", 0)):
        # Another trial of the same network, and another network: of both only the answers are looked at.
        other = stirred(MODELS[name](), dataset.x_test[:IMAGES])
        (folder / name).mkdir(exist_ok=True)
        save(other, folder / name / f"{seed}.h5")
        found = evaluate(other, dataset.x_test, dataset.y_test)
        params = int(name[3:])
        fields = {"model": name, "params": params, "seed": seed, "saved_accuracy": 0.9, "max_epochs": EPOCHS[name]}
        row = replace(trial, test_correct=min(found.correct, trial.test_correct - 1), **fields)
        append_row(folder / f"{name}.csv", row)
    header = "epoch,accuracy,learning_rate,loss,val_accuracy,val_loss\n"
    (folder / "sep997/5.csv").write_text(f"{header}0,0.9,0.01,0.3,0.95,0.2\n")
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
        layers.DepthwiseConv2D((3, 2), padding="same"),
        layers.AveragePooling2D((2, 3), strides=1, padding="same"),
        layers.BatchNormalization(scale=False, center=False),
        layers.LeakyReLU(0.3),
        layers.AveragePooling2D(2),
        layers.DepthwiseConv2D(2, use_bias=False),
        layers.Dense(5),
        layers.GlobalAveragePooling2D(keepdims=True),
        layers.Conv2D(11, 1, activation="silu"),
        layers.Flatten(),
        layers.Dense(10, use_bias=False),
        layers.Softmax(),
    ]
    return keras.Sequential([keras.Input((28, 28, 1)), *chain], name="mixed")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("sep997", 20),
        pytest.param("searched", 20, marks=pytest.mark.slow),
        *(pytest.param(name, IMAGES, marks=pytest.mark.slow) for name in [*MODELS, "mixed"]),
    ],
)
def test_the_page_computes_what_keras_does(page, dataset, name, count):
    images = dataset.x_test[:count]
    # The last one applies a layer several times.
    build = (MODELS | {"mixed": mixed, "searched": SEARCHED.build})[name]
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_digit_can_be_drawn_with_keys(page):
    program = """
        const board = document.getElementById("board");
        const seen = () => {
            const canvas = document.getElementById("seen");
            const pixels = canvas.getContext("2d").getImageData(0, 0, 28, 28).data;
            return pixels.filter((value, index) => index % 4 === 3 && value > 0).length;
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


@pytest.mark.slow
def test_a_digit_can_be_drawn_with_a_pen_and_takes_an_example_away(page):
    program = """
        const board = document.getElementById("board");
        board.setPointerCapture = () => {};  // It knows no pointer that no device has.
        const box = board.getBoundingClientRect();
        const point = (type, x, y) => board.dispatchEvent(new PointerEvent(type, {
            pointerId: 1, pointerType: "pen", button: 0, bubbles: true,
            clientX: box.left + x * box.width, clientY: box.top + y * box.height}));
        const ink = () => {
            const side = board.width;
            const pixels = board.getContext("2d").getImageData(0, 0, side, side).data;
            const inked = [];
            for (let index = 0; index < side * side; index++)
                if (pixels[4 * index + 3] > 127) inked.push([index % side, Math.floor(index / side)]);
            return [0, 1].map((axis) => [Math.min(...inked.map((place) => place[axis] * 280 / side)),
                                         Math.max(...inked.map((place) => place[axis] * 280 / side))]);
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


POINT = """
        const point = (plot, type, mark) => {
            const box = mark.getBoundingClientRect();
            plot.dispatchEvent(new PointerEvent(type, {pointerType: "mouse", bubbles: true,
                clientX: box.left + box.width / 2, clientY: box.top + box.height / 2}));
        };"""


@pytest.mark.slow
def test_a_dot_is_named_and_puts_its_network_on_the_board(page):
    program = f"""{POINT}
        const plot = document.getElementById("plane");
        const found = [];
        for (const mark of plot.querySelectorAll("circle")) {{
            point(plot, "pointermove", mark);
            const said = Array.from(document.getElementById("tip").children, (line) => line.textContent);
            point(plot, "click", mark);
            await frame();
            const select = document.getElementById("network");
            found.push([said, select.selectedOptions[0].textContent, Number(mark.getAttribute("cx"))]);
        }}
        const right = plot.querySelector("svg").width.baseVal.value - 12;
        return [found, right];"""
    found, right = in_browser(page, program)
    names = [(said[0], chosen.partition(":")[0].replace(" (best)", "")) for said, chosen, _ in found]
    assert [said for said, _ in names] == [chosen for _, chosen in names]
    assert {said for said, _ in names} == {"sep697, seed 0", "sep997, seed 0", "sep997, seed 5"}
    # The axis is logarithmic from 697 / 1.4 to its right end, 18,242 * 1.4, or 997 * 1.4 where nothing is published.
    most = 18_242 if MNIST_PATH else 997
    for said, _, x in found:
        place = np.log(int(said[0][3:6]) * 1.4 / 697) / np.log(1.4**2 * most / 697)
        assert x == pytest.approx(62 + place * (right - 62), abs=0.01)


@pytest.mark.slow
def test_the_slider_marks_the_expected_best(page):
    program = """
        const input = document.getElementById("size");
        const answers = [];
        for (const value of [0, 1]) {
            input.value = value;
            input.dispatchEvent(new Event("input"));
            answers.push([document.getElementById("size-shown").textContent,
                document.getElementById("best-of-answer").textContent,
                document.querySelectorAll("#strip line.best").length]);
        }
        return answers;"""
    # Of the last epochs 0.9876 and 0.9 the mean is 0.9438, the best 0.9876.
    (one, mean, marks), (two, best, _) = in_browser(page, program)
    assert (one, two) == ("1", "2")
    assert "last epoch: 94.380\u00a0%" in mean
    assert "last epoch: 98.760\u00a0%" in best
    assert marks >= 2


def test_all_networks_answer(page, dataset):
    program = """
        document.querySelector("#examples button").click();
        await frame();
        await new Promise((done) => setTimeout(done, 500));
        return Array.from(document.querySelectorAll(".answer"), (card) => [card.textContent,
            Array.from(card.querySelectorAll("i"), (bar) => Number(bar.style.getPropertyValue("--share")))]);"""
    answers = in_browser(page, program)
    model = load(page.parent / "sep997/0.h5")
    expected = probabilities(model, dataset.x_test)
    place = np.flatnonzero((expected.argmax(axis=1) == dataset.y_test) & (dataset.y_test == dataset.y_test.min()))
    assert len(answers) == 2
    for text, shares in answers:
        assert int(text[-1]) == int(np.argmax(shares))
        assert sum(shares) == pytest.approx(1, abs=1e-5)
    if place.size:
        np.testing.assert_allclose(answers[0][1], expected[place[0]], atol=1e-4)


def test_a_cell_of_the_map_shows_its_mistakes(page):
    program = """
        const shown = () => Array.from(document.querySelectorAll("#gallery figure:not([hidden])"),
            (figure) => figure.dataset.pair);
        const before = shown();
        const cell = document.querySelector(".confusion button");
        cell.click();
        const some = shown();
        document.getElementById("all-wrong").click();
        return [before, cell.dataset.pair, some, shown()];"""
    before, pair, some, after = in_browser(page, program)
    assert before == after
    assert set(some) <= {pair}
    assert some == [one for one in before if one == pair]


@pytest.mark.parametrize(("scheme", "bright"), [("light", False), ("dark", True)])
@pytest.mark.slow
def test_ink_is_dark_on_a_light_page_and_bright_on_a_dark_one(page, scheme, bright):
    program = """
        await frame();
        const seen = document.getElementById("seen");
        const pixels = seen.getContext("2d").getImageData(0, 0, 28, 28).data;
        const inked = Array.from({length: 784}, (_, index) => index).find((index) => pixels[4 * index + 3] > 200);
        const paper = getComputedStyle(seen).backgroundColor.match(/\\d+/g).map(Number);
        return [pixels[4 * inked], paper[0]];"""
    ink, paper = in_browser(page, program, scheme=scheme)
    assert (ink > 200, paper < 50) == (bright, bright)
    assert (ink < 50, paper > 200) == (not bright, not bright)


@pytest.mark.parametrize("width", [360, 1000])
def test_nothing_is_wider_than_the_screen(page, width):
    program = """
        const wide = Array.from(document.body.querySelectorAll("*")).filter((element) =>
            !element.closest("svg") && element.getBoundingClientRect().right > innerWidth + 0.5);
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
        for (const details of document.querySelectorAll("details")) details.open = true;
        document.getElementById("all-wrong").hidden = false;
        const used = document.querySelectorAll("a, button, select, input, summary, canvas[tabindex]");
        return Array.from(used, (element) => {
            element.focus();
            return [element.tagName, name(element), document.activeElement === element,
                    getComputedStyle(element).outlineStyle];
        });"""
    used = in_browser(page, program)
    assert {"A", "BUTTON", "SELECT", "SUMMARY", "CANVAS"} <= {tag for tag, *_ in used}
    assert all(name for _, name, *_ in used), used
    assert all(focused for _, _, focused, _ in used), used


def test_every_reference_finds_its_id(page):
    check_references(page.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_pictures_have_texts(page):
    program = """
        document.getElementById("layers").closest("details").open = true;
        await frame();
        await frame();
        const pictures = document.querySelectorAll("img, [role=img]");
        return Array.from(pictures, (picture) => picture.getAttribute("alt") || picture.getAttribute("aria-label"));"""
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
