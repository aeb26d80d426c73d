// What a plugin meets of TensorRT, for plugin_host.cpp: a logger that remembers, and sizes of tensors that are only numbers.
#pragma once

#include <NvInferRuntime.h>

#include <deque>
#include <memory>
#include <string>

namespace plugin_host {

using namespace nvinfer1;

inline std::string messages;

struct Logger final : ILogger {
  void log(Severity severity, const char *text) noexcept override {
    messages += (messages.empty() ? "" : "; ") + std::to_string(static_cast<int>(severity)) + " " + text;
  }
};

struct Finder final : ILoggerFinder {
  Logger logger;
  ILogger *findLogger() override { return &logger; }
};

// A size of a tensor while an engine is built; negative if it is not known.
struct Size final : IDimensionExpr {
  struct Impl final : apiv::VDimensionExpr {
    int64_t value = -1;
    bool isConstant() const override { return value >= 0; }
    int64_t getConstantValue() const override { return value; }
    bool isSizeTensor() const override { return false; }
  } impl;
  explicit Size(int64_t value) {
    impl.value = value;
    mImpl = &impl;
  }
};

struct Builder final : IExprBuilder {
  struct Impl final : apiv::VExprBuilder {
    std::deque<std::unique_ptr<Size>> sizes;
    const IDimensionExpr *constant(int64_t value) override {
      sizes.push_back(std::make_unique<Size>(value));
      return sizes.back().get();
    }
    const IDimensionExpr *operation(DimensionOperation, const IDimensionExpr &, const IDimensionExpr &) override {
      return nullptr;
    }
    const IDimensionExpr *declareSizeTensor(int32_t, const IDimensionExpr &, const IDimensionExpr &) override {
      return nullptr;
    }
  } impl;
  Builder() { mImpl = &impl; }
};

} // namespace plugin_host
