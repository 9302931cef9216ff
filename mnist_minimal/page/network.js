/*
 * A trained network in plain JavaScript: runs what mnist_minimal/page/network.py wrote as JSON.
 *
 * A tensor is {shape: [rows, columns, channels] or [channels], data: Float32Array}, the channels next to each other.
 * Sums are taken in double precision and rounded once, to single precision, as each step's output is stored.
 */

function tensor(shape, values) {
  return { shape, data: Float32Array.from(values) };
}

function elementwise(input, change) {
  return tensor(input.shape, input.data.map(change));
}

function channels(input) {
  return input.shape[input.shape.length - 1];
}

/* How a window moves along one axis of an image: how many places it has, and how far before the image it begins. */
function along(size, window, stride, padding) {
  if (padding !== "same") return { size, count: Math.floor((size - window) / stride) + 1, before: 0 };
  const count = Math.ceil(size / stride);
  // TensorFlow puts an odd pixel of padding below and to the right.
  return { size, count, before: Math.floor(Math.max((count - 1) * stride + window - size, 0) / 2) };
}

/*
 * Moves a window over an image and calls visit(to, from, tap) for each of its pixels that lies inside the image:
 * the numbers of the output pixel, of the input pixel, and of the place in the window. `begin(pixels)` is called before
 * with the number of output pixels. Returns the output's rows and columns.
 */
function slide(input, window, strides, padding, begin, visit) {
  const [rows, columns] = [0, 1].map((axis) => along(input.shape[axis], window[axis], strides[axis], padding));
  begin(rows.count * columns.count);
  for (let row = 0; row < rows.count; row++) {
    for (let column = 0; column < columns.count; column++) {
      for (let down = 0; down < window[0]; down++) {
        const y = row * strides[0] - rows.before + down;
        if (y < 0 || y >= rows.size) continue;
        for (let right = 0; right < window[1]; right++) {
          const x = column * strides[1] - columns.before + right;
          if (x < 0 || x >= columns.size) continue;
          visit(row * columns.count + column, y * columns.size + x, down * window[1] + right);
        }
      }
    }
  }
  return [rows.count, columns.count];
}

/* Every pixel's channels times a matrix [channels, outputs], plus a bias where there is one. */
function mixChannels(input, matrix, bias, outputs) {
  const depth = channels(input);
  const mixed = new Float64Array(input.data.length / depth * outputs);
  let place = 0;
  for (let pixel = 0; pixel < input.data.length; pixel += depth) {
    for (let output = 0; output < outputs; output++) {
      let sum = bias ? bias[output] : 0;
      for (let channel = 0; channel < depth; channel++) {
        sum += input.data[pixel + channel] * matrix[channel * outputs + output];
      }
      mixed[place++] = sum;
    }
  }
  return tensor([...input.shape.slice(0, -1), outputs], mixed);
}

/* Each channel times the window of a kernel [rows, columns, channels], plus a bias where there is one. */
function eachChannel({ shape, data }, { kernel_size, strides, padding }, kernel, bias) {
  const depth = shape.at(-1);
  let sums;
  const begin = (pixels) => {
    sums = new Float64Array(pixels * depth);
    if (bias) for (let index = 0; index < sums.length; index++) sums[index] = bias[index % depth];
  };
  const size = slide({ shape }, kernel_size, strides, padding, begin, (to, from, tap) => {
    for (let channel = 0; channel < depth; channel++) {
      sums[to * depth + channel] += data[from * depth + channel] * kernel[tap * depth + channel];
    }
  });
  return tensor([...size, depth], sums);
}

function normalizeChannels(input, { epsilon }, { gamma, beta, moving_mean, moving_variance }) {
  const depth = channels(input);
  return elementwise(input, (value, index) => {
    const channel = index % depth;
    const scaled = (value - moving_mean[channel]) / Math.sqrt(moving_variance[channel] + epsilon);
    return scaled * (gamma ? gamma[channel] : 1) + (beta ? beta[channel] : 0);
  });
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/* One function a kind of step: (input, the step's settings, its layer's weights) to the output. */
const STEPS = {
  Rescaling: (input, { scale, offset }) => elementwise(input, (value) => value * scale + offset),

  Conv2D({ shape, data }, { filters, kernel_size, strides, padding }, { kernel, bias }) {
    const depth = shape.at(-1);
    let sums;
    const begin = (pixels) => {
      sums = new Float64Array(pixels * filters);
      if (bias) for (let index = 0; index < sums.length; index++) sums[index] = bias[index % filters];
    };
    const size = slide({ shape }, kernel_size, strides, padding, begin, (to, from, tap) => {
      for (let channel = 0; channel < depth; channel++) {
        const value = data[from * depth + channel];
        const weights = (tap * depth + channel) * filters;
        for (let filter = 0; filter < filters; filter++) {
          sums[to * filters + filter] += value * kernel[weights + filter];
        }
      }
    });
    return tensor([...size, filters], sums);
  },

  DepthwiseConv2D: (input, step, { kernel, bias }) => eachChannel(input, step, kernel, bias),

  SeparableConv2D: (input, step, { depthwise_kernel, pointwise_kernel, bias }) =>
    mixChannels(eachChannel(input, step, depthwise_kernel), pointwise_kernel, bias, step.filters),

  MaxPooling2D({ shape, data }, { pool_size, strides, padding }) {
    const depth = shape.at(-1);
    let largest;
    const begin = (pixels) => {
      largest = new Float64Array(pixels * depth).fill(-Infinity);
    };
    const size = slide({ shape }, pool_size, strides, padding, begin, (to, from) => {
      for (let channel = 0; channel < depth; channel++) {
        const value = data[from * depth + channel];
        if (value > largest[to * depth + channel]) largest[to * depth + channel] = value;
      }
    });
    return tensor([...size, depth], largest);
  },

  AveragePooling2D({ shape, data }, { pool_size, strides, padding }) {
    const depth = shape.at(-1);
    let [sums, counts] = [];
    const begin = (pixels) => {
      [sums, counts] = [new Float64Array(pixels * depth), new Float64Array(pixels)];
    };
    const size = slide({ shape }, pool_size, strides, padding, begin, (to, from) => {
      counts[to] += 1;
      for (let channel = 0; channel < depth; channel++) {
        sums[to * depth + channel] += data[from * depth + channel];
      }
    });
    return tensor([...size, depth], sums.map((sum, index) => sum / counts[Math.floor(index / depth)]));
  },

  GlobalAveragePooling2D(input, { keepdims }) {
    const depth = channels(input);
    const averages = Array.from({ length: depth }, (_, channel) =>
      mean(Array.from(input.data).filter((_, index) => index % depth === channel)));
    return tensor(keepdims ? [1, 1, depth] : [depth], averages);
  },

  Flatten: (input) => tensor([input.data.length], input.data),

  Dense: (input, { units }, { kernel, bias }) => mixChannels(input, kernel, bias, units),

  BatchNormalization: normalizeChannels,

  InstanceNormalization(input, { epsilon }, { gamma, beta }) {
    const values = Array.from(input.data);
    const average = mean(values);
    const deviation = Math.sqrt(mean(values.map((value) => (value - average) ** 2)));
    return elementwise(input, (value) => (value - average) / (deviation + epsilon) * gamma[0] + beta[0]);
  },

  relu: (input, { negative_slope }) => elementwise(input, (value) => (value > 0 ? value : value * negative_slope)),

  silu: (input) => elementwise(input, (value) => value / (1 + Math.exp(-value))),

  softmax(input) {
    const largest = Math.max(...input.data);
    const powers = Array.from(input.data, (value) => Math.exp(value - largest));
    const sum = powers.reduce((total, power) => total + power, 0);
    return tensor(input.shape, powers.map((power) => power / sum));
  },
};

const decoded = new WeakMap();

/* A network's weights by layer and name, out of base64 of little-endian float32, decoded when they are first wanted. */
function weightsOf(network) {
  if (!decoded.has(network)) {
    const layers = Object.entries(network.weights).map(([layer, variables]) => [
      layer,
      Object.fromEntries(Object.entries(variables).map(([name, text]) => [name, floatsOf(bytesOf(text))])),
    ]);
    decoded.set(network, Object.fromEntries(layers));
  }
  return decoded.get(network);
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function floatsOf(bytes) {
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, index) => view.getFloat32(4 * index, true));
}

/*
 * Runs a network on one image of 28 x 28 pixels, 0 .. 255. Returns every step's output, in order, as
 * {layer, kind, shape, data}; the last one's data are the ten probabilities.
 */
function runNetwork(network, pixels) {
  const weights = weightsOf(network);
  let output = tensor([28, 28, 1], pixels);
  return network.steps.map((step) => {
    output = STEPS[step.kind](output, step, weights[step.layer] ?? {});
    return { layer: step.layer, kind: step.kind, ...output };
  });
}
