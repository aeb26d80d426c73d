#include "plugin.h"

#include <new>

#include "bev_runtime/cuda_kernels.h"

namespace bev::tensorrt {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;

const char *const kTensorNames[] = {
    "depth", "feat", "ranks_depth", "ranks_feat", "ranks_bev", "interval_starts", "interval_lengths", "out"};
constexpr int32_t kRanks[] = {4, 4, 1, 1, 1, 1, 1, 4};

bool is_float(DataType type) { return type == DataType::kFLOAT || type == DataType::kHALF; }

std::string name_of(DataType type) {
  switch (type) {
  case DataType::kFLOAT: return "float32";
  case DataType::kHALF: return "float16";
  case DataType::kINT32: return "int32";
  case DataType::kINT64: return "int64";
  case DataType::kINT8: return "int8";
  case DataType::kBF16: return "bfloat16";
  default: return "DataType " + std::to_string(static_cast<int32_t>(type));
  }
}

std::string describe(const Dims &dims) {
  std::string text = "[";
  for (int32_t i = 0; i < dims.nbDims; ++i) text += (i ? ", " : "") + std::to_string(dims.d[i]);
  return text + "]";
}

// Sizes that are known and differ cannot fit; -1 is a size that is not known yet.
bool differ(int64_t a, int64_t b) { return a >= 0 && b >= 0 && a != b; }

int64_t volume(const Dims &dims) {
  int64_t total = 1;
  for (int32_t i = 0; i < dims.nbDims; ++i) total *= dims.d[i];
  return total;
}

bool refuse(const std::string &message) {
  report(message);
  return false;
}

bool counts_fit(int32_t num_inputs, int32_t num_outputs) {
  if (num_inputs == kNumInputs && num_outputs == 1) return true;
  return refuse(std::to_string(num_inputs) + " inputs and " + std::to_string(num_outputs) +
                " outputs, expected 7 and 1 (depth, feat, ranks_depth, ranks_feat, ranks_bev, interval_starts, "
                "interval_lengths): export the graph with the BevPool operator of bev_runtime");
}

// Checks types and shapes; `tensor(i)` gives the descriptor of an input or, at kOut, of the output.
template <typename Get> bool fits(const Get &tensor, const Settings &settings) {
  for (int i = 0; i <= kOut; ++i) {
    const nvinfer1::PluginTensorDesc &found = tensor(i);
    if (found.dims.nbDims != kRanks[i])
      return refuse(std::string(kTensorNames[i]) + " has shape " + describe(found.dims) + ", expected " +
                    std::to_string(kRanks[i]) + " dimensions: check the exported node");
    const bool wanted = i == kDepth               ? is_float(found.type)
                        : i == kFeat || i == kOut ? found.type == tensor(kDepth).type
                                                  : found.type == DataType::kINT32;
    if (!wanted)
      return refuse(
          std::string(kTensorNames[i]) + " is " + name_of(found.type) +
          ", expected float32 or float16, the same for depth, feat and out, and int32 for the table: insert casts");
  }
  const int64_t points = tensor(kRanksDepth).dims.d[0], intervals = tensor(kIntervalStarts).dims.d[0];
  if (differ(points, tensor(kRanksFeat).dims.d[0]) || differ(points, tensor(kRanksBev).dims.d[0]) ||
      differ(intervals, tensor(kIntervalLengths).dims.d[0]))
    return refuse("the table has " + std::to_string(points) + ", " + std::to_string(tensor(kRanksFeat).dims.d[0]) + ", " +
                  std::to_string(tensor(kRanksBev).dims.d[0]) + " ranks and " + std::to_string(intervals) + ", " +
                  std::to_string(tensor(kIntervalLengths).dims.d[0]) + " intervals, expected equal counts: build it again");
  const Dims &out = tensor(kOut).dims;
  const int64_t channels = tensor(kFeat).dims.d[3], height = settings.out_height, width = settings.out_width;
  const int64_t expected[] = {1, settings.channels_first ? channels : height, settings.channels_first ? height : width,
                              settings.channels_first ? width : channels};
  for (int i = 0; i < 4; ++i)
    if (differ(out.d[i], expected[i]))
      return refuse("out has shape " + describe(out) + " for feat " + describe(tensor(kFeat).dims) + " and a grid of " +
                    std::to_string(height) + " x " + std::to_string(width) + ": build the engine again");
  return true;
}

} // namespace

BevPoolPlugin::BevPoolPlugin(const Settings &settings, const char *name, const char *name_space) noexcept
    : settings_(settings), name_(name), name_space_(name_space) {
  point_fields_here();
}

BevPoolPlugin::BevPoolPlugin(const BevPoolPlugin &other) noexcept
    : IPluginV3(other), IPluginV3OneCore(other), IPluginV3OneBuild(other), IPluginV3OneRuntime(other),
      settings_(other.settings_), name_(other.name_), name_space_(other.name_space_) {
  point_fields_here();
}

void BevPoolPlugin::point_fields_here() noexcept {
  const auto integer = nvinfer1::PluginFieldType::kINT32;
  fields_[0] = {"version", &version_, integer, 1};
  fields_[1] = {"out_height", &settings_.out_height, integer, 1};
  fields_[2] = {"out_width", &settings_.out_width, integer, 1};
  fields_[3] = {"channels_first", &settings_.channels_first, integer, 1};
  collection_ = {4, fields_};
}

nvinfer1::IPluginCapability *BevPoolPlugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
  case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore *>(this);
  case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild *>(this);
  case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime *>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3 *BevPoolPlugin::clone() noexcept { return new (std::nothrow) BevPoolPlugin(*this); }

nvinfer1::IPluginV3 *BevPoolPlugin::attachToContext(nvinfer1::IPluginResourceContext *) noexcept { return clone(); }

const nvinfer1::PluginFieldCollection *BevPoolPlugin::getFieldsToSerialize() noexcept { return &collection_; }

int32_t BevPoolPlugin::configurePlugin(const nvinfer1::DynamicPluginTensorDesc *in, int32_t num_inputs,
                                       const nvinfer1::DynamicPluginTensorDesc *out, int32_t num_outputs) noexcept {
  if (!counts_fit(num_inputs, num_outputs)) return -1;
  const auto tensor = [&](int i) -> const nvinfer1::PluginTensorDesc & { return i == kOut ? out[0].desc : in[i].desc; };
  return fits(tensor, settings_) ? 0 : -1;
}

int32_t BevPoolPlugin::onShapeChange(const nvinfer1::PluginTensorDesc *in, int32_t num_inputs,
                                     const nvinfer1::PluginTensorDesc *out, int32_t num_outputs) noexcept {
  if (!counts_fit(num_inputs, num_outputs)) return -1;
  const auto tensor = [&](int i) -> const nvinfer1::PluginTensorDesc & { return i == kOut ? out[0] : in[i]; };
  return fits(tensor, settings_) ? 0 : -1;
}

int32_t BevPoolPlugin::getOutputDataTypes(DataType *output_types, int32_t num_outputs, const DataType *input_types,
                                          int32_t num_inputs) const noexcept {
  if (!counts_fit(num_inputs, num_outputs)) return -1;
  if (!is_float(input_types[kDepth]) || input_types[kFeat] != input_types[kDepth]) {
    report("depth is " + name_of(input_types[kDepth]) + " and feat " + name_of(input_types[kFeat]) +
           ", expected float32 or float16, the same for both: insert a cast");
    return -1;
  }
  output_types[0] = input_types[kFeat];
  return 0;
}

int32_t BevPoolPlugin::getOutputShapes(const nvinfer1::DimsExprs *inputs, int32_t num_inputs, const nvinfer1::DimsExprs *,
                                       int32_t, nvinfer1::DimsExprs *outputs, int32_t num_outputs,
                                       nvinfer1::IExprBuilder &builder) noexcept {
  if (!counts_fit(num_inputs, num_outputs)) return -1;
  for (int i = 0; i < kNumInputs; ++i)
    if (inputs[i].nbDims != kRanks[i]) {
      report(std::string(kTensorNames[i]) + " has " + std::to_string(inputs[i].nbDims) + " dimensions, expected " +
             std::to_string(kRanks[i]) + ": check the exported node");
      return -1;
    }
  const auto *height = builder.constant(settings_.out_height), *width = builder.constant(settings_.out_width);
  const auto *channels = inputs[kFeat].d[3];
  outputs[0].nbDims = 4;
  outputs[0].d[0] = builder.constant(1);
  outputs[0].d[1] = settings_.channels_first ? channels : height;
  outputs[0].d[2] = settings_.channels_first ? height : width;
  outputs[0].d[3] = settings_.channels_first ? width : channels;
  return 0;
}

bool BevPoolPlugin::supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc *tensors,
                                              int32_t num_inputs, int32_t num_outputs) noexcept {
  // TensorRT tries combinations that it does not mean; to refuse one is no news.
  if (num_inputs != kNumInputs || num_outputs != 1 || position < 0 || position > kOut) return false;
  const nvinfer1::PluginTensorDesc &found = tensors[position].desc;
  if (found.format != nvinfer1::TensorFormat::kLINEAR) return false;
  if (position == kDepth) return is_float(found.type);
  if (position == kFeat || position == kOut) return found.type == tensors[kDepth].desc.type;
  return found.type == DataType::kINT32;
}

int32_t BevPoolPlugin::enqueue(const nvinfer1::PluginTensorDesc *input_desc, const nvinfer1::PluginTensorDesc *,
                               const void *const *inputs, void *const *outputs, void *, cudaStream_t stream) noexcept {
  const auto table = [&](int i) { return static_cast<const int32_t *>(inputs[i]); };
  const Dims &feat = input_desc[kFeat].dims;
  BevCudaPool job{};
  job.depth = inputs[kDepth];
  job.feat = inputs[kFeat];
  job.ranks_depth = table(kRanksDepth);
  job.ranks_feat = table(kRanksFeat);
  job.ranks_bev = table(kRanksBev);
  job.interval_starts = table(kIntervalStarts);
  job.interval_lengths = table(kIntervalLengths);
  job.out = outputs[0];
  job.num_depth = volume(input_desc[kDepth].dims);
  job.num_feat = feat.d[0] * feat.d[1] * feat.d[2];
  job.num_points = input_desc[kRanksDepth].dims.d[0];
  job.num_intervals = input_desc[kIntervalStarts].dims.d[0];
  job.num_cells = static_cast<int64_t>(settings_.out_height) * settings_.out_width;
  job.channels = feat.d[3];
  job.dtype = input_desc[kFeat].type == DataType::kHALF ? BEV_CUDA_FLOAT16 : BEV_CUDA_FLOAT32;
  job.channels_first = settings_.channels_first;
  const int64_t code = bev_cuda_pool(&job, stream);
  if (code == 0) return 0;
  report("pooling was refused with code " + std::to_string(code) + " (see cuda_kernels.h) for feat " + describe(feat));
  return -1;
}

} // namespace bev::tensorrt
