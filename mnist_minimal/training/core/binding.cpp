// The Python module _core: checks every array and number that comes in, and lets go of the interpreter while it computes.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <variant>

#include "augmentation.h"
#include "elementary.h"
#include "network.h"
#include "reference.h"

namespace py = pybind11;

namespace mnist_minimal {
namespace {

// No step may carry the count over the end of its type.
constexpr int64_t kMaxSteps = int64_t(1) << 62;

// Of all covariances: 128 MiB, and half as much for the bases.
constexpr size_t kMaxSoapNumbers = size_t(1) << 24;

template <class Number>
bool has_type(const py::array& array) {
  return py::isinstance<py::array_t<Number>>(array);
}

std::string shape_text(const py::array& array) {
  return py::str(array.attr("shape")).cast<std::string>() + " " + py::str(array.dtype()).cast<std::string>();
}

template <class Number>
const Number* vector_data(const py::array& array, size_t size, const char* name) {
  if (!has_type<Number>(array)) {
    throw py::type_error(std::string("expected ") + name + " of dtype " +
                         py::str(py::dtype::of<Number>()).cast<std::string>() + ", found " + shape_text(array));
  }
  if (!(array.flags() & py::array::c_style)) throw py::value_error(std::string("expected ") + name + " in C order");
  if (!(array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_)) {
    throw py::value_error(std::string("expected ") + name + " at an address that is a multiple of a number's size");
  }
  if (size_t(array.size()) != size) {
    throw py::value_error(std::string("expected ") + name + " with " + std::to_string(size) + " numbers, found " +
                          shape_text(array));
  }
  return static_cast<const Number*>(array.data());
}

// Waits until no other call of the network is under way, without the interpreter, as other threads may need it before the
// call ends; and keeps others out meanwhile.
template <class Work>
auto exclusively(Network& network, Work work) {
  py::gil_scoped_release release;
  const std::unique_lock<std::mutex> lock = network.lock();
  return work();
}

template <class Number>
py::array_t<Number> copy(Network& network, std::vector<Number> Network::* member) {
  const std::vector<Number> from = exclusively(network, [&] { return network.*member; });
  return py::array_t<Number>(py::ssize_t(from.size()), from.data());
}

template <class AnyNetwork>
Images checked_images(const AnyNetwork& network, const py::array& images) {
  const Shape shape = network.input();
  if (images.ndim() != 4 || images.shape(1) != shape.height || images.shape(2) != shape.width ||
      images.shape(3) != shape.channels) {
    throw py::value_error("expected images of shape (n, " + std::to_string(shape.height) + ", " +
                          std::to_string(shape.width) + ", " + std::to_string(shape.channels) + "), found " +
                          shape_text(images));
  }
  if (has_type<uint8_t>(images)) return {vector_data<uint8_t>(images, images.size(), "images"), nullptr};
  if (!has_type<float>(images)) {
    throw py::type_error("expected images of dtype uint8 or float32, found " + shape_text(images));
  }
  const float* floats = vector_data<float>(images, images.size(), "images");
  for (py::ssize_t i = 0; i < images.size(); ++i) {
    if (!std::isfinite(floats[i])) throw py::value_error("expected images of finite numbers, found one that is not");
  }
  return {nullptr, floats};
}

template <class AnyNetwork>
const uint8_t* checked_labels(const AnyNetwork& network, const py::array& images, const py::array& labels) {
  if (labels.ndim() != 1) throw py::value_error("expected labels of shape (n,), found " + shape_text(labels));
  const uint8_t* values = vector_data<uint8_t>(labels, images.shape(0), "labels");
  for (py::ssize_t i = 0; i < labels.size(); ++i) {
    if (values[i] >= network.classes()) {
      throw py::value_error("expected labels in 0 .. " + std::to_string(network.classes() - 1) + ", found " +
                            std::to_string(values[i]));
    }
  }
  return values;
}

// Null where there are none.
template <class AnyNetwork>
const float* checked_targets(const AnyNetwork& network, const py::array& images,
                             const std::optional<py::array>& targets) {
  if (!targets) return nullptr;
  const py::ssize_t count = images.shape(0), classes = network.classes();
  if (targets->ndim() != 2 || targets->shape(0) != count || targets->shape(1) != classes) {
    throw py::value_error("expected targets of shape (" + std::to_string(count) + ", " + std::to_string(classes) +
                          "), found " + shape_text(*targets));
  }
  const float* values = vector_data<float>(*targets, targets->size(), "targets");
  for (py::ssize_t i = 0; i < targets->size(); ++i) {
    if (!(values[i] >= 0 && values[i] <= 1)) {
      throw py::value_error("expected targets from 0 to 1, found " + std::to_string(values[i]));
    }
  }
  return values;
}

const int64_t* checked_order(const py::array& images, const py::array& order) {
  if (order.ndim() != 1 || order.size() < 1 || order.size() > std::numeric_limits<int>::max() / 2) {
    throw py::value_error("expected at least one index of shape (n,) in order, found " + shape_text(order));
  }
  const int64_t* values = vector_data<int64_t>(order, order.size(), "order");
  for (py::ssize_t i = 0; i < order.size(); ++i) {
    if (values[i] < 0 || values[i] >= images.shape(0)) {
      throw py::value_error("expected indices in 0 .. " + std::to_string(images.shape(0) - 1) + " in order, found " +
                            std::to_string(values[i]));
    }
  }
  return values;
}

float checked_finite(float number, const char* name) {
  if (!std::isfinite(number)) throw py::value_error(std::string("expected a finite ") + name);
  return number;
}

// One for all steps, or one for each.
using Rates = std::variant<py::array, float>;

// A rate for each of the batches that `count` samples make.
std::vector<float> checked_rates(const Rates& rates, int64_t count, int batch_size) {
  const size_t steps = size_t((count - 1) / batch_size + 1);
  if (const float* one = std::get_if<float>(&rates)) {
    return std::vector<float>(steps, checked_finite(*one, "learning rate"));
  }
  const py::array& array = std::get<py::array>(rates);
  if (array.ndim() != 1) throw py::value_error("expected learning rates of shape (n,), found " + shape_text(array));
  const float* from = vector_data<float>(array, steps, "learning rates");
  for (size_t i = 0; i < steps; ++i) checked_finite(from[i], "learning rate");
  return std::vector<float>(from, from + steps);
}

int checked_threads(int threads) {
  if (threads < 1) throw py::value_error("expected at least 1 thread, found " + std::to_string(threads));
  return threads;
}

py::tuple as_tuple(const Totals& totals) { return py::make_tuple(totals.loss, totals.correct, totals.helper_seconds); }

std::pair<uint32_t, uint32_t> as_pair(Words words) { return {words.first, words.second}; }

Shape as_shape(const py::tuple& shape) {
  if (shape.size() != 3) throw py::value_error("expected a shape (height, width, channels)");
  try {
    return {shape[0].cast<int>(), shape[1].cast<int>(), shape[2].cast<int>()};
  } catch (const py::cast_error&) {
    throw py::type_error("expected whole numbers below 2**31 in a shape (height, width, channels)");
  }
}

Layer make_layer(const std::string& kind, const py::tuple& in, const py::tuple& out, std::pair<int, int> kernel_size,
                 std::tuple<int, int, int, int> pad, ptrdiff_t kernel, ptrdiff_t bias, ptrdiff_t statistics,
                 float epsilon, float momentum, float slope, float rate, int dropout_index) {
  const std::pair<const char*, Kind> kinds[] = {
      {"convolution", Kind::kConvolution}, {"depthwise", Kind::kDepthwise},
      {"max_pool", Kind::kMaxPool},        {"average_pool", Kind::kAveragePool},
      {"batch_norm", Kind::kBatchNorm},    {"instance_norm", Kind::kInstanceNorm},
      {"silu", Kind::kSilu},               {"elementwise", Kind::kElementwise},
  };
  Layer layer = {};
  bool known = false;
  for (const auto& [name, value] : kinds) {
    if (kind == name) layer.kind = value, known = true;
  }
  if (!known) throw py::value_error("expected a kind of layer, found '" + kind + "'");
  if (!(rate >= 0 && rate < 1)) throw py::value_error("expected a dropout rate in [0, 1)");
  const bool padded = layer.kind == Kind::kConvolution || layer.kind == Kind::kDepthwise;
  const bool pool = layer.kind == Kind::kMaxPool || layer.kind == Kind::kAveragePool;
  std::tie(layer.pad_top, layer.pad_left, layer.pad_bottom, layer.pad_right) = pad;
  const int pads[] = {layer.pad_top, layer.pad_left, layer.pad_bottom, layer.pad_right};
  for (int side : pads) {
    if (side < 0 || (side > 0 && !padded)) throw py::value_error("expected no padding here, or one of at least 0");
  }
  if (pool && (slope != 1 || rate != 0)) throw py::value_error("expected no activation and no dropout in a pool");
  if (!padded && !pool && kernel_size != std::pair<int, int>(1, 1)) throw py::value_error("expected no kernel size here");
  layer.in = as_shape(in);
  layer.out = as_shape(out);
  layer.kernel_rows = kernel_size.first;
  layer.kernel_columns = kernel_size.second;
  layer.kernel = kernel;
  layer.bias = bias;
  layer.statistics = statistics;
  layer.epsilon = checked_finite(epsilon, "epsilon");
  layer.momentum = checked_finite(momentum, "momentum");
  layer.slope = slope;
  layer.drop = std::min(uint32_t(std::lround(rate * 65536)), 65535u);
  layer.dropout_index = dropout_index;
  return layer;
}

double checked_range(double number, double high, const char* name) {
  if (!(number >= 0 && number <= high)) {
    throw py::value_error(std::string("expected ") + name + " from 0 to " + py::str(py::float_(high)).cast<std::string>());
  }
  return number;
}

Augmentation make_augmentation(double rotation, double translation, std::pair<double, double> scale, double affine_share,
                               const std::string& interpolation, int crop, const std::variant<double, std::string>& fill,
                               double brightness, double contrast, double tone_share) {
  constexpr double kNoBound = std::numeric_limits<double>::infinity();
  if (interpolation != "nearest" && interpolation != "bilinear") {
    throw py::value_error("expected interpolation 'nearest' or 'bilinear', found '" + interpolation + "'");
  }
  if (crop < 0) throw py::value_error("expected crop of at least 0");
  const std::string* text = std::get_if<std::string>(&fill);
  if (text && *text != "reflect") throw py::value_error("expected fill of a number or 'reflect', found '" + *text + "'");
  Augmentation augmentation;
  // The sine and the cosine are made for angles that are not too large.
  augmentation.rotation = checked_range(rotation, 360, "rotation");
  augmentation.translation = checked_range(translation, kNoBound, "translation");
  augmentation.min_scale = checked_range(scale.first, kNoBound, "scale");
  augmentation.max_scale = checked_range(scale.second, kNoBound, "scale");
  augmentation.affine_share = checked_range(affine_share, 1, "affine_share");
  augmentation.nearest = interpolation == "nearest";
  augmentation.crop = crop;
  augmentation.reflect = text != nullptr;
  augmentation.fill = text ? 0 : std::get<double>(fill);
  augmentation.brightness = checked_range(brightness, kNoBound, "brightness");
  augmentation.contrast = checked_range(contrast, kNoBound, "contrast");
  augmentation.tone_share = checked_range(tone_share, 1, "tone_share");
  return augmentation;
}

py::array_t<float> augment_images(const py::array& images, const py::array& order, const Augmentation& augmentation,
                                  uint64_t seed, uint32_t epoch, const std::optional<std::string>& instruction_set) {
  if (images.ndim() != 4 || images.size() < 1) {
    throw py::value_error("expected images of shape (n, height, width, channels), found " + shape_text(images));
  }
  const uint8_t* bytes = vector_data<uint8_t>(images, images.size(), "images");
  const int64_t* indices = checked_order(images, order);
  if (images.size() / images.shape(0) > (1 << 20)) throw py::value_error("expected images of at most 2**20 numbers");
  const Shape shape = {int(images.shape(1)), int(images.shape(2)), int(images.shape(3))};
  const Kernels& kernels = choose_kernels(instruction_set ? instruction_set->c_str() : nullptr);
  py::array_t<float> augmented({order.size(), images.shape(1), images.shape(2), images.shape(3)});
  std::vector<float> scratch(kPlanes * plane_floats(shape));
  augment(augmented.mutable_data(), bytes, indices, order.size(), shape, augmentation, seed, epoch, scratch.data(),
          kernels);
  return augmented;
}

py::tuple train(Network& network, const py::array& images, const py::array& labels, const py::array& order,
                int batch_size, uint64_t seed, uint32_t epoch, const Rates& learning_rates, int threads,
                const std::optional<py::array>& targets, const Augmentation* augmentation,
                std::optional<int64_t> sum_from) {
  const Images checked = checked_images(network, images);
  const uint8_t* values = checked_labels(network, images, labels);
  const float* aims = checked_targets(network, images, targets);
  const int64_t* indices = checked_order(images, order);
  if (batch_size < 1) throw py::value_error("expected a batch size of at least 1");
  const int64_t count = order.size();
  const int size = int(std::min<int64_t>(batch_size, count));
  const std::vector<float> rates = checked_rates(learning_rates, count, size);
  checked_threads(threads);
  if (augmentation && !checked.bytes) throw py::type_error("expected images of dtype uint8 where they are augmented");
  if (sum_from && *sum_from < 0) throw py::value_error("expected sum_from of at least 0");
  Totals totals;
  {
    py::gil_scoped_release release;
    totals = network.train(checked, values, aims, indices, count, size, seed, epoch, rates.data(), threads,
                           augmentation, sum_from.value_or(std::numeric_limits<int64_t>::max()));
  }
  return as_tuple(totals);
}

py::tuple compute_gradients(Network& network, const py::array& images, const py::array& labels, const py::array& order,
                            uint64_t seed, uint32_t epoch, uint32_t step, int threads,
                            const std::optional<py::array>& targets) {
  const Images checked = checked_images(network, images);
  const uint8_t* values = checked_labels(network, images, labels);
  const float* aims = checked_targets(network, images, targets);
  const int64_t* indices = checked_order(images, order);
  checked_threads(threads);
  const int size = int(order.size());
  Totals totals;
  {
    py::gil_scoped_release release;
    totals = network.compute_gradients(checked, values, aims, indices, size, seed, epoch, step, threads);
  }
  return as_tuple(totals);
}

Totals evaluate_all(Network& network, const py::array& images, const py::array& labels, float* probabilities,
                    int threads) {
  const Images checked = checked_images(network, images);
  const uint8_t* values = checked_labels(network, images, labels);
  if (images.shape(0) < 1 || images.shape(0) > std::numeric_limits<int>::max() / 2) {
    throw py::value_error("expected at least one image");
  }
  checked_threads(threads);
  const int64_t count = images.shape(0);
  py::gil_scoped_release release;
  std::vector<int64_t> order(count);
  for (int64_t i = 0; i < count; ++i) order[i] = i;
  return network.evaluate(checked, values, order.data(), count, probabilities, threads);
}

py::tuple evaluate(Network& network, const py::array& images, const py::array& labels, int threads) {
  return as_tuple(evaluate_all(network, images, labels, nullptr, threads));
}

py::array_t<float> predict(Network& network, const py::array& images, int threads) {
  checked_images(network, images);
  py::array_t<uint8_t> labels(images.shape(0));
  std::fill_n(labels.mutable_data(), labels.size(), 0);
  py::array_t<float> probabilities({images.shape(0), py::ssize_t(network.classes())});
  evaluate_all(network, images, labels, probabilities.mutable_data(), threads);
  return probabilities;
}

std::vector<Layer> as_layers(const py::list& layers) {
  std::vector<Layer> list;
  for (const py::handle& layer : layers) {
    if (!py::isinstance<Layer>(layer)) throw py::type_error("expected a list of layers");
    list.push_back(layer.cast<Layer>());
  }
  return list;
}

// A property that is read as a copy and written as a whole.
template <class Number>
void define_array(py::class_<Network>& type, const char* name, std::vector<Number> Network::* member, const char* doc) {
  type.def_property(
      name, [member](Network& network) { return copy(network, member); },
      [member, name](Network& network, const py::array& value) {
        std::vector<Number>& to = network.*member;  // Its size never changes.
        const Number* from = vector_data<Number>(value, to.size(), name);
        exclusively(network, [&] { std::copy(from, from + to.size(), to.begin()); });
      },
      doc);
}

// The reference in one precision. It keeps the interpreter while it computes, so that no other thread gets at its arrays.
template <class Real>
void define_reference(py::module_& module, const char* name) {
  using Class = Reference<Real>;
  py::class_<Class> type(module, name, "A network of plain scalar loops, to compare Network with; reference.cpp.");
  type.def(py::init([](const py::tuple& input_shape, float scale, float offset, const py::list& layers,
                       size_t parameters, size_t statistics, const Optimizer& optimizer) {
             return std::make_unique<Class>(as_shape(input_shape), checked_finite(scale, "scale"),
                                            checked_finite(offset, "offset"), as_layers(layers), parameters, statistics,
                                            optimizer);
           }),
           py::kw_only(), py::arg("input_shape"), py::arg("scale"), py::arg("offset"), py::arg("layers"),
           py::arg("parameters"), py::arg("statistics"), py::arg("optimizer"))
      .def(
          "train",
          [](Class& self, const py::array& images, const py::array& labels, const py::array& order, int batch_size,
             uint64_t seed, uint32_t epoch, const Rates& learning_rates, const std::optional<py::array>& targets) {
            const Images checked = checked_images(self, images);
            const uint8_t* values = checked_labels(self, images, labels);
            const float* aims = checked_targets(self, images, targets);
            const int64_t* indices = checked_order(images, order);
            if (batch_size < 1) throw py::value_error("expected a batch size of at least 1");
            const std::vector<float> rates = checked_rates(learning_rates, order.size(), batch_size);
            return as_tuple(
                self.train(checked, values, aims, indices, order.size(), batch_size, seed, epoch, rates.data()));
          },
          py::arg("images"), py::arg("labels"), py::arg("order"), py::kw_only(), py::arg("batch_size"), py::arg("seed"),
          py::arg("epoch"), py::arg("learning_rates"), py::arg("targets") = py::none())
      .def(
          "compute_gradients",
          [](Class& self, const py::array& images, const py::array& labels, const py::array& order, uint64_t seed,
             uint32_t epoch, uint32_t step, const std::optional<py::array>& targets) {
            const Images checked = checked_images(self, images);
            const uint8_t* values = checked_labels(self, images, labels);
            const float* aims = checked_targets(self, images, targets);
            const int64_t* indices = checked_order(images, order);
            return as_tuple(
                self.compute_gradients(checked, values, aims, indices, int(order.size()), seed, epoch, step));
          },
          py::arg("images"), py::arg("labels"), py::arg("order"), py::kw_only(), py::arg("seed") = 0,
          py::arg("epoch") = 0, py::arg("step") = 0, py::arg("targets") = py::none())
      .def(
          "predict",
          [](Class& self, const py::array& images) {
            const Images checked = checked_images(self, images);
            py::array_t<Real> probabilities({images.shape(0), py::ssize_t(self.classes())});
            self.predict(checked, int(images.shape(0)), probabilities.mutable_data());
            return probabilities;
          },
          py::arg("images"))
      .def_readonly("steps", &Class::steps);
  const std::pair<const char*, std::vector<Real> Class::*> arrays[] = {
      {"parameters", &Class::parameters},
      {"gradients", &Class::gradients},
      {"moments", &Class::moments},
      {"statistics", &Class::statistics},
  };
  for (const auto& [property, member] : arrays) {
    type.def_property(
        property,
        [member = member](const Class& self) {
          return py::array_t<Real>(py::ssize_t((self.*member).size()), (self.*member).data());
        },
        [member = member, property = property](Class& self, const py::array& value) {
          std::vector<Real>& to = self.*member;
          const Real* from = vector_data<Real>(value, to.size(), property);
          std::copy(from, from + to.size(), to.begin());
        });
  }
}

}  // namespace
}  // namespace mnist_minimal

PYBIND11_MODULE(_core, module) {
  using namespace mnist_minimal;
  module.doc() = "Training of small convolutional networks on the processor; see mnist_minimal.training.core.";
  module.def("instruction_set", [] { return choose_kernels(nullptr).name; },
             "Name of the instruction set of a network that is made without one: 'avx512', 'avx2' or 'baseline'.");
  module.def(
      "instruction_sets",
      [] {
        std::vector<std::string> names;
        for (const Kernels* kernels : supported_kernels()) names.push_back(kernels->name);
        return names;
      },
      "Names of the instruction sets that this processor has, the best first.");

  module.def(
      "threefry",
      [](std::pair<uint32_t, uint32_t> key, std::pair<uint32_t, uint32_t> counter) {
        return as_pair(threefry({key.first, key.second}, {counter.first, counter.second}));
      },
      py::arg("key"), py::arg("counter"), "Two random words, as those of mnist_minimal.data.random.");
  module.def(
      "dropout_key",
      [](uint64_t seed, uint32_t epoch, uint32_t step, int layer) {
        return as_pair(dropout_key(seed, epoch, step, layer));
      },
      py::arg("seed"), py::arg("epoch"), py::arg("step"), py::arg("layer"),
      "The two words that a layer's dropout starts with in a step; the layer is the number of the Dropout layer.");

  py::class_<Layer>(module, "Layer", "One layer of a chain; layers.h says what the fields mean.")
      .def(py::init(&make_layer), py::kw_only(), py::arg("kind"), py::arg("in_shape"), py::arg("out_shape"),
           py::arg("kernel_size") = std::pair<int, int>(1, 1), py::arg("pad") = std::make_tuple(0, 0, 0, 0),
           py::arg("kernel") = kNone, py::arg("bias") = kNone, py::arg("statistics") = kNone, py::arg("epsilon") = 0.0f,
           py::arg("momentum") = 0.0f, py::arg("slope") = 1.0f, py::arg("rate") = 0.0f, py::arg("dropout_index") = 0);

  module.def("sin", &mnist_minimal::sin, "That of data.elementary, of one float.");
  module.def("cos", &mnist_minimal::cos, "That of data.elementary, of one float.");
  py::class_<Augmentation>(module, "Augmentation", "The ranges that recipes.Augmentation has, by its names.")
      .def(py::init(&make_augmentation), py::kw_only(), py::arg("rotation"), py::arg("translation"), py::arg("scale"),
           py::arg("affine_share"), py::arg("interpolation"), py::arg("crop"), py::arg("fill"), py::arg("brightness"),
           py::arg("contrast"), py::arg("tone_share"));
  module.def("augment", &augment_images, py::arg("images"), py::arg("order"), py::arg("augmentation"), py::kw_only(),
             py::arg("seed"), py::arg("epoch"), py::arg("instruction_set") = py::none(),
             "What training in an epoch makes of images order[0 .. n-1], float32 (n, height, width, channels).");

  py::class_<Optimizer>(module, "Optimizer", "How a step changes the parameters.")
      .def_static(
          "adam",
          [](float beta_1, float beta_2, float epsilon, float decay) {
            Optimizer optimizer;
            optimizer.beta_1 = checked_finite(beta_1, "beta_1");
            optimizer.beta_2 = checked_finite(beta_2, "beta_2");
            optimizer.epsilon = checked_finite(epsilon, "epsilon");
            optimizer.decay = checked_finite(decay, "decay");
            return optimizer;
          },
          py::kw_only(), py::arg("beta_1"), py::arg("beta_2"), py::arg("epsilon"), py::arg("decay"))
      .def_static(
          "momentum",
          [](float momentum) {
            Optimizer optimizer;
            optimizer.kind = Optimizer::Kind::kMomentum;
            optimizer.momentum = checked_finite(momentum, "momentum");
            return optimizer;
          },
          py::kw_only(), py::arg("momentum"))
      .def_static(
          "soap",
          [](const std::vector<int>& blocks) {
            size_t left = kMaxSoapNumbers;
            for (int size : blocks) {
              if (size < 1) throw py::value_error("expected blocks of at least 1 parameter");
              if (size_t(size) > left / size) {
                throw py::value_error("expected blocks whose matrices have at most 2**24 numbers");
              }
              left -= size_t(size) * size;
            }
            Optimizer optimizer;
            optimizer.kind = Optimizer::Kind::kSoap;
            optimizer.blocks = blocks;
            return optimizer;
          },
          py::kw_only(), py::arg("blocks"), "SOAP, of blocks of so many parameters each, one after the other.");

  py::class_<Network> network(module, "Network", "A network with its parameters and its optimizer's state.");
  network
      .def(py::init([](const py::tuple& input_shape, float scale, float offset, const py::list& layers,
                       size_t parameters, size_t statistics, const Optimizer& optimizer,
                       const std::optional<std::string>& instruction_set) {
             return std::make_unique<Network>(as_shape(input_shape), checked_finite(scale, "scale"),
                                              checked_finite(offset, "offset"), as_layers(layers), parameters, statistics,
                                              optimizer,
                                              choose_kernels(instruction_set ? instruction_set->c_str() : nullptr));
           }),
           py::kw_only(), py::arg("input_shape"), py::arg("scale"), py::arg("offset"), py::arg("layers"),
           py::arg("parameters"), py::arg("statistics"), py::arg("optimizer"),
           py::arg("instruction_set") = py::none())
      .def("train", &train, py::arg("images"), py::arg("labels"), py::arg("order"), py::kw_only(),
           py::arg("batch_size"), py::arg("seed"), py::arg("epoch"), py::arg("learning_rates"),
           py::arg("threads") = 1, py::arg("targets") = py::none(), py::arg("augmentation") = py::none(),
           py::arg("sum_from") = py::none(),
           "An epoch. `learning_rates` are float32 (steps,), or one number for all steps. The loss is by the targets, float32 "
           "(n, classes), whose rows sum up to 1, where there are some; an answer is right by its label. Images of bytes "
           "are augmented where `augmentation` is one. The weights after each step that follows on at least `sum_from` "
           "others, in this call and those before it, are added to `sums`; after none without it. Returns the summed loss, "
           "the number of correct answers and the helper threads' CPU seconds.")
      .def("compute_gradients", &compute_gradients, py::arg("images"), py::arg("labels"), py::arg("order"),
           py::kw_only(), py::arg("seed") = 0, py::arg("epoch") = 0, py::arg("step") = 0, py::arg("threads") = 1,
           py::arg("targets") = py::none(),
           "Leaves in `gradients` those of the mean loss of one batch; returns what `train` does.")
      .def("evaluate", &evaluate, py::arg("images"), py::arg("labels"), py::kw_only(), py::arg("threads") = 1,
           "Returns the summed loss, the number of correct answers and the helper threads' CPU seconds.")
      .def("predict", &predict, py::arg("images"), py::kw_only(), py::arg("threads") = 1,
           "Class probabilities, float32 (n, classes).")
      .def_property(
          "steps", [](Network& self) { return exclusively(self, [&] { return self.steps; }); },
          [](Network& self, int64_t steps) {
            if (steps < 0 || steps > kMaxSteps) throw py::value_error("expected 0 .. 2**62 steps");
            exclusively(self, [&] { self.steps = steps; });
          },
          "Optimizer steps taken.")
      .def_property_readonly("instruction_set", &Network::instruction_set, "Name of the instruction set that it uses.");
  define_array(network, "parameters", &Network::parameters, "Trainable parameters, float32 (n,).");
  define_array(network, "moments", &Network::moments, "The optimizer's first and second moments, float32 (2 n,).");
  define_array(network, "statistics", &Network::statistics, "Moving means and variances, float32.");
  define_array(network, "sums", &Network::sums, "Sums of parameters and then statistics, float64; see train.");
  define_array(network, "covariances", &Network::covariances,
               "Of SOAP the lower triangles of each block's (size, size) of gradients, float64; else empty.");
  define_array(network, "bases", &Network::bases, "Of SOAP each block's basis, vectors in rows, float32; else empty.");
  define_reference<float>(module, "Reference32");
  define_reference<double>(module, "Reference64");
  network.def_property_readonly("gradients", [](Network& self) { return copy(self, &Network::gradients); });
}
