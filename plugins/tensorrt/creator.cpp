// Makes plugins from the attributes of an ONNX node or from the fields of an engine, and hands the creators to TensorRT.
//
// The library is loaded with IPluginRegistry::loadLibrary (trtexec --dynamicPlugins), which asks for getCreators. Nothing
// registers itself and no symbol of TensorRT is needed at load time.
#include <atomic>
#include <cstring>
#include <new>

#include "plugin.h"

namespace bev::tensorrt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

std::atomic<nvinfer1::ILoggerFinder *> logger_finder{nullptr};

// An attribute, under the names that exporters give it. `set` tells where the value goes.
struct Attribute {
  const char *name;
  int32_t Settings::*target; // null for what is only checked
};

constexpr Attribute kAttributes[] = {{"out_height", &Settings::out_height},
                                     {"out_width", &Settings::out_width},
                                     {"output_height", &Settings::out_height},
                                     {"output_width", &Settings::out_width},
                                     {"channels_first", &Settings::channels_first},
                                     {"output_z", nullptr},
                                     {"version", nullptr}};

// The value of a field, or a message.
bool read(const PluginField &field, int32_t &value, std::string &problem) {
  if (field.type == PluginFieldType::kINT32 && field.length == 1 && field.data) {
    value = *static_cast<const int32_t *>(field.data);
    return true;
  }
  if (field.type == PluginFieldType::kINT64 && field.length == 1 && field.data) {
    const int64_t wide = *static_cast<const int64_t *>(field.data);
    value = static_cast<int32_t>(wide);
    if (value == wide) return true;
  }
  problem = std::string(field.name) + " has field type " + std::to_string(static_cast<int32_t>(field.type)) +
            " and length " + std::to_string(field.length) + ", expected one int32";
  return false;
}

bool parse(const nvinfer1::PluginFieldCollection &fields, bool is_restored, Settings &settings, std::string &problem) {
  settings = {0, 0, 0};
  int32_t version = 0;
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    const PluginField &field = fields.fields[i];
    const Attribute *found = nullptr;
    for (const Attribute &attribute : kAttributes)
      if (field.name && std::strcmp(field.name, attribute.name) == 0) found = &attribute;
    if (!found) {
      problem = std::string("attribute '") + (field.name ? field.name : "") +
                "' is unknown, expected out_height, out_width and channels_first";
      return false;
    }
    int32_t value;
    if (!read(field, value, problem)) return false;
    if (found->target) settings.*found->target = value;
    if (std::strcmp(found->name, "version") == 0) version = value;
    if (std::strcmp(found->name, "output_z") == 0 && value != 1) {
      problem = "output_z is " + std::to_string(value) + ", expected 1: export with heights merged into channels";
      return false;
    }
  }
  if (is_restored && (version < 1 || version > kFieldsVersion)) {
    problem = "the engine's plugin fields have version " + std::to_string(version) + ", expected 1.." +
              std::to_string(kFieldsVersion) + ": build the engine again with this library";
    return false;
  }
  if (settings.out_height < 1 || settings.out_width < 1 ||
      static_cast<int64_t>(settings.out_height) * settings.out_width > INT32_MAX) {
    problem = "out_height is " + std::to_string(settings.out_height) + " and out_width " +
              std::to_string(settings.out_width) +
              ", expected positive sizes with at most 2^31 - 1 cells: set both on the node";
    return false;
  }
  if (settings.channels_first != 0 && settings.channels_first != 1) {
    problem = "channels_first is " + std::to_string(settings.channels_first) + ", expected 0 or 1";
    return false;
  }
  return true;
}

class BevPoolCreator final : public nvinfer1::IPluginCreatorV3One {
public:
  BevPoolCreator(const char *name, const char *name_space) noexcept : name_(name), name_space_(name_space) {
    int32_t count = 0;
    for (const Attribute &attribute : kAttributes)
      // The version belongs to engines, not to nodes.
      if (std::strcmp(attribute.name, "version") != 0)
        fields_[count++] = {attribute.name, nullptr, PluginFieldType::kINT32, 1};
    collection_ = {count, fields_};
  }

  nvinfer1::IPluginV3 *createPlugin(const char *, const nvinfer1::PluginFieldCollection *fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override {
    Settings settings;
    std::string problem = "no attributes, expected out_height and out_width";
    if (fields && parse(*fields, phase == nvinfer1::TensorRTPhase::kRUNTIME, settings, problem))
      return new (std::nothrow) BevPoolPlugin(settings, name_, name_space_);
    report(problem);
    return nullptr;
  }

  const nvinfer1::PluginFieldCollection *getFieldNames() noexcept override { return &collection_; }
  const char *getPluginName() const noexcept override { return name_; }
  const char *getPluginVersion() const noexcept override { return "1"; }
  const char *getPluginNamespace() const noexcept override { return name_space_; }

private:
  const char *name_, *name_space_;
  PluginField fields_[sizeof(kAttributes) / sizeof(kAttributes[0])];
  nvinfer1::PluginFieldCollection collection_;
};

} // namespace

void report(const std::string &message) noexcept {
  nvinfer1::ILoggerFinder *finder = logger_finder.load();
  nvinfer1::ILogger *logger = finder ? finder->findLogger() : nullptr;
  if (logger) logger->log(nvinfer1::ILogger::Severity::kERROR, ("BevPool: " + message).c_str());
}

} // namespace bev::tensorrt

#define BEV_PLUGIN_EXPORT extern "C" __attribute__((visibility("default")))

// The logger's owner is TensorRT, which calls this when it loads the library.
BEV_PLUGIN_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder *finder) { bev::tensorrt::logger_finder.store(finder); }

// A node without the attribute plugin_namespace is looked up in the empty namespace.
BEV_PLUGIN_EXPORT nvinfer1::IPluginCreatorInterface *const *getCreators(int32_t &count) {
  using bev::tensorrt::BevPoolCreator;
  static BevPoolCreator own("BevPool", "bev_runtime"), plain("BevPool", ""), published("bev_pool_v2", ""),
      own_published("bev_pool_v2", "bev_runtime");
  static nvinfer1::IPluginCreatorInterface *const creators[] = {&own, &plain, &published, &own_published};
  count = 4;
  return creators;
}
