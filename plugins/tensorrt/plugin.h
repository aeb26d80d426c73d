// BevPool inside a TensorRT engine.
#pragma once

#include <NvInferRuntime.h>

#include <string>

namespace bev::tensorrt {

constexpr int32_t kFieldsVersion = 1; // of the serialised fields; a plan with a higher one is refused

// Inputs and the output, in the order of the operator.
enum Tensor {
  kDepth = 0,
  kFeat,
  kRanksDepth,
  kRanksFeat,
  kRanksBev,
  kIntervalStarts,
  kIntervalLengths,
  kNumInputs,
  kOut = kNumInputs
};

struct Settings {
  int32_t out_height, out_width;
  int32_t channels_first; // 0: [1, out_height, out_width, C]; 1: [1, C, out_height, out_width]
};

// Says what is wrong through the logger of the engine that is being built or run; without one the message is dropped.
void report(const std::string &message) noexcept;

// One class has all three capabilities. It holds three numbers, so a clone is a copy and no method but the creation of a
// plugin allocates; `enqueue` launches one kernel and may be captured into a CUDA graph.
class BevPoolPlugin final : public nvinfer1::IPluginV3,
                            public nvinfer1::IPluginV3OneCore,
                            public nvinfer1::IPluginV3OneBuild,
                            public nvinfer1::IPluginV3OneRuntime {
public:
  // `name` and `name_space` are the creator's, which outlives its plugins.
  BevPoolPlugin(const Settings &settings, const char *name, const char *name_space) noexcept;
  BevPoolPlugin(const BevPoolPlugin &other) noexcept;

  nvinfer1::IPluginCapability *getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3 *clone() noexcept override;

  const char *getPluginName() const noexcept override { return name_; }
  const char *getPluginVersion() const noexcept override { return "1"; }
  const char *getPluginNamespace() const noexcept override { return name_space_; }

  int32_t getNbOutputs() const noexcept override { return 1; }
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc *in, int32_t num_inputs,
                          const nvinfer1::DynamicPluginTensorDesc *out, int32_t num_outputs) noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType *output_types, int32_t num_outputs, const nvinfer1::DataType *input_types,
                             int32_t num_inputs) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs *inputs, int32_t num_inputs, const nvinfer1::DimsExprs *shape_inputs,
                          int32_t num_shape_inputs, nvinfer1::DimsExprs *outputs, int32_t num_outputs,
                          nvinfer1::IExprBuilder &builder) noexcept override;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc *tensors, int32_t num_inputs,
                                 int32_t num_outputs) noexcept override;

  int32_t onShapeChange(const nvinfer1::PluginTensorDesc *in, int32_t num_inputs, const nvinfer1::PluginTensorDesc *out,
                        int32_t num_outputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc *input_desc, const nvinfer1::PluginTensorDesc *output_desc,
                  const void *const *inputs, void *const *outputs, void *workspace, cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3 *attachToContext(nvinfer1::IPluginResourceContext *context) noexcept override;
  const nvinfer1::PluginFieldCollection *getFieldsToSerialize() noexcept override;

private:
  void point_fields_here() noexcept;

  Settings settings_;
  const char *name_, *name_space_;
  int32_t version_ = kFieldsVersion;
  nvinfer1::PluginField fields_[4];
  nvinfer1::PluginFieldCollection collection_;
};

} // namespace bev::tensorrt
