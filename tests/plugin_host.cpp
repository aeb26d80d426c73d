// Plays TensorRT's part towards the plugin library: loads it, makes a plugin, calls its methods, prints a line of JSON each.
//
//   plugin_host LIBRARY list
//   plugin_host LIBRARY build|runtime NAME NAMESPACE FIELDS ACTION...
//
// FIELDS: name=value,name=value (int32), or empty. Actions work on the plugin that was made last:
//   types T*7          getOutputDataTypes; T is f32, f16, i32 or i64
//   shapes S*7         getOutputShapes; S is 6x59x16x44, -1 for a size that is not known
//   format POS D*8     supportsFormatCombination; D is TYPE:S or TYPE:S:FORMAT
//   configure D*8, change D*8   configurePlugin, onShapeChange
//   clone, attach      go on with the copy; the original is destroyed
//   restore [VERSION]  serialise, destroy, create for the runtime phase
//   fields             getFieldsToSerialize
//   enqueue FOLDER D*8     inputs 0..6 from FOLDER/<i>.bin, output to FOLDER/out.bin, on the device
//   capture FOLDER D*8     the same through a CUDA graph that is launched twice
//   enqueue_null D*8       enqueue with null pointers
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "plugin_host_tensorrt.h"

using namespace plugin_host;

namespace {

std::string quoted(const std::string &text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + "\"";
}

[[noreturn]] void die(const std::string &text) {
  std::fprintf(stderr, "plugin_host: %s\n", text.c_str());
  std::exit(3);
}

void require(cudaError_t error) {
  if (error != cudaSuccess) die(cudaGetErrorString(error));
}

std::vector<std::string> split(const std::string &text, char at) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, at);) parts.push_back(part);
  return parts;
}

DataType type_of(const std::string &text) {
  if (text == "f32") return DataType::kFLOAT;
  if (text == "f16") return DataType::kHALF;
  if (text == "i32") return DataType::kINT32;
  if (text == "i64") return DataType::kINT64;
  if (text == "i8") return DataType::kINT8;
  die("type " + text);
}

Dims dims_of(const std::string &text) {
  Dims dims{};
  for (const std::string &part : split(text, 'x')) dims.d[dims.nbDims++] = std::stoll(part);
  return dims;
}

PluginTensorDesc desc_of(const std::string &text) {
  const auto parts = split(text, ':');
  PluginTensorDesc desc{};
  desc.type = type_of(parts.at(0));
  desc.dims = dims_of(parts.at(1));
  desc.format = parts.size() > 2 && parts[2] == "hwc8" ? TensorFormat::kHWC8 : TensorFormat::kLINEAR;
  return desc;
}

int64_t bytes_of(const PluginTensorDesc &desc) {
  int64_t bytes = desc.type == DataType::kHALF ? 2 : 4;
  for (int i = 0; i < desc.dims.nbDims; ++i) bytes *= desc.dims.d[i];
  return bytes;
}

struct Fields {
  std::deque<std::string> names;
  std::deque<int32_t> values;
  std::vector<PluginField> fields;
  void add(const std::string &name, int32_t value) {
    names.push_back(name);
    values.push_back(value);
    fields.emplace_back(names.back().c_str(), &values.back(), PluginFieldType::kINT32, 1);
  }
  PluginFieldCollection collection() const { return {static_cast<int32_t>(fields.size()), fields.data()}; }
};

struct Host {
  IPluginCreatorV3One *creator = nullptr;
  std::unique_ptr<IPluginV3> plugin;

  IPluginV3OneBuild &build() const {
    return *static_cast<IPluginV3OneBuild *>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
  }
  IPluginV3OneRuntime &runtime() const {
    return *static_cast<IPluginV3OneRuntime *>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  }
  IPluginV3OneCore &core() const {
    return *static_cast<IPluginV3OneCore *>(plugin->getCapabilityInterface(PluginCapabilityType::kCORE));
  }

  bool create(const Fields &fields, TensorRTPhase phase) {
    const PluginFieldCollection collection = fields.collection();
    plugin.reset(creator->createPlugin("node", &collection, phase));
    return plugin != nullptr;
  }

  Fields serialised() const {
    Fields out;
    const PluginFieldCollection &found = *runtime().getFieldsToSerialize();
    for (int i = 0; i < found.nbFields; ++i)
      out.add(found.fields[i].name, *static_cast<const int32_t *>(found.fields[i].data));
    return out;
  }
};

// Output of the plugin on device buffers of exactly the tensors' sizes, so that a sanitizer sees every stray access.
int32_t run(const Host &host, const std::string &folder, const std::vector<PluginTensorDesc> &descs, bool as_graph) {
  void *buffers[8];
  cudaStream_t stream;
  require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (int i = 0; i < 8; ++i) {
    const int64_t bytes = bytes_of(descs[i]);
    require(cudaMalloc(&buffers[i], bytes > 0 ? bytes : 1));
    std::vector<char> content(bytes, 0x7f);
    if (i < 7) {
      std::ifstream file(folder + "/" + std::to_string(i) + ".bin", std::ios::binary);
      content.assign(std::istreambuf_iterator<char>(file), {});
      if (static_cast<int64_t>(content.size()) != bytes) die("input " + std::to_string(i) + " has another size");
    }
    require(cudaMemcpy(buffers[i], content.data(), bytes, cudaMemcpyHostToDevice));
  }
  require(cudaDeviceSynchronize());
  cudaGraph_t graph;
  if (as_graph) require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  const int32_t code = host.runtime().enqueue(descs.data(), descs.data() + 7, buffers, buffers + 7, nullptr, stream);
  if (as_graph) {
    cudaGraphExec_t executable;
    require(cudaStreamEndCapture(stream, &graph));
    require(cudaGraphInstantiate(&executable, graph, 0));
    for (int i = 0; i < 2; ++i) require(cudaGraphLaunch(executable, stream));
    require(cudaStreamSynchronize(stream));
    require(cudaGraphExecDestroy(executable));
    require(cudaGraphDestroy(graph));
  }
  require(cudaStreamSynchronize(stream));
  std::vector<char> out(bytes_of(descs[7]));
  require(cudaMemcpy(out.data(), buffers[7], out.size(), cudaMemcpyDeviceToHost));
  std::ofstream(folder + "/out.bin", std::ios::binary).write(out.data(), static_cast<std::streamsize>(out.size()));
  for (void *buffer : buffers) require(cudaFree(buffer));
  require(cudaStreamDestroy(stream));
  return code;
}

std::string perform(Host &host, const std::string &action, std::deque<std::string> &words) {
  const auto take = [&] {
    if (words.empty()) die(action + " needs more words");
    const std::string word = words.front();
    words.pop_front();
    return word;
  };
  const auto take_descs = [&] {
    std::vector<PluginTensorDesc> descs;
    for (int i = 0; i < 8; ++i) descs.push_back(desc_of(take()));
    return descs;
  };
  const auto dynamic = [](const std::vector<PluginTensorDesc> &descs) {
    std::vector<DynamicPluginTensorDesc> out;
    for (const auto &desc : descs) out.push_back({desc, desc.dims, desc.dims, desc.dims});
    return out;
  };
  if (action == "types") {
    DataType in[7], out = DataType::kBOOL;
    for (DataType &type : in) type = type_of(take());
    const int32_t code = host.build().getOutputDataTypes(&out, host.build().getNbOutputs(), in, 7);
    return "\"code\": " + std::to_string(code) + ", \"type\": " + std::to_string(static_cast<int>(out));
  }
  if (action == "shapes") {
    Builder builder;
    DimsExprs in[7], out{};
    for (DimsExprs &shape : in) {
      const Dims dims = dims_of(take());
      shape.nbDims = dims.nbDims;
      for (int i = 0; i < dims.nbDims; ++i) shape.d[i] = builder.constant(dims.d[i]);
    }
    const int32_t code = host.build().getOutputShapes(in, 7, nullptr, 0, &out, 1, builder);
    std::string text;
    for (int i = 0; i < out.nbDims; ++i) text += (i ? ", " : "") + std::to_string(out.d[i]->getConstantValue());
    return "\"code\": " + std::to_string(code) + ", \"shape\": [" + text + "]";
  }
  if (action == "format") {
    const int position = std::stoi(take());
    const auto descs = dynamic(take_descs());
    return std::string("\"supported\": ") +
           (host.build().supportsFormatCombination(position, descs.data(), 7, 1) ? "true" : "false");
  }
  if (action == "configure") {
    const auto descs = dynamic(take_descs());
    return "\"code\": " + std::to_string(host.build().configurePlugin(descs.data(), 7, descs.data() + 7, 1));
  }
  if (action == "change") {
    const auto descs = take_descs();
    return "\"code\": " + std::to_string(host.runtime().onShapeChange(descs.data(), 7, descs.data() + 7, 1));
  }
  if (action == "clone" || action == "attach") {
    host.plugin.reset(action == "clone" ? host.plugin->clone() : host.runtime().attachToContext(nullptr));
    return "\"name\": " + quoted(host.core().getPluginName()) +
           ", \"namespace\": " + quoted(host.core().getPluginNamespace());
  }
  if (action == "fields" || action == "restore") {
    Fields fields = host.serialised();
    if (action == "restore") {
      if (!words.empty() && words.front().rfind("version=", 0) == 0) fields.values[0] = std::stoi(take().substr(8));
      return std::string("\"created\": ") + (host.create(fields, TensorRTPhase::kRUNTIME) ? "true" : "false");
    }
    std::string text;
    for (size_t i = 0; i < fields.fields.size(); ++i)
      text += (i ? ", " : "") + quoted(fields.names[i]) + ": " + std::to_string(fields.values[i]);
    return "\"fields\": {" + text + "}";
  }
  if (action == "enqueue_null") {
    const auto descs = take_descs();
    const void *in[7] = {};
    void *out[1] = {};
    return "\"code\": " + std::to_string(host.runtime().enqueue(descs.data(), descs.data() + 7, in, out, nullptr, nullptr));
  }
  if (action == "enqueue" || action == "capture") {
    const std::string folder = take();
    return "\"code\": " + std::to_string(run(host, folder, take_descs(), action == "capture"));
  }
  die("action " + action);
}

} // namespace

int main(int argc, char **argv) {
  std::deque<std::string> words(argv + 1, argv + argc);
  if (words.size() < 2) die("LIBRARY list, or LIBRARY PHASE NAME NAMESPACE FIELDS ACTION...");
  void *library = dlopen(words[0].c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) die(dlerror());
  static Finder finder;
  reinterpret_cast<void (*)(ILoggerFinder *)>(dlsym(library, "setLoggerFinder"))(&finder);
  int32_t count = 0;
  auto *const *creators =
      reinterpret_cast<IPluginCreatorInterface *const *(*)(int32_t &)>(dlsym(library, "getCreators"))(count);
  Host host;
  for (int i = 0; i < count; ++i) {
    auto *creator = static_cast<IPluginCreatorV3One *>(creators[i]);
    if (words[1] == "list") {
      std::string fields;
      const PluginFieldCollection &found = *creator->getFieldNames();
      for (int k = 0; k < found.nbFields; ++k) fields += (k ? ", " : "") + quoted(found.fields[k].name);
      std::printf("{\"interface\": %s, \"name\": %s, \"version\": %s, \"namespace\": %s, \"fields\": [%s]}\n",
                  quoted(creators[i]->getInterfaceInfo().kind).c_str(), quoted(creator->getPluginName()).c_str(),
                  quoted(creator->getPluginVersion()).c_str(), quoted(creator->getPluginNamespace()).c_str(),
                  fields.c_str());
    } else if (words.size() > 3 && words[2] == creator->getPluginName() && words[3] == creator->getPluginNamespace()) {
      host.creator = creator;
    }
  }
  if (words[1] == "list") return 0;
  if (words.size() < 5 || !host.creator) die("no such creator");
  Fields fields;
  for (const std::string &field : split(words[4], ',')) {
    const auto parts = split(field, '=');
    fields.add(parts.at(0), std::stoi(parts.at(1)));
  }
  const bool created = host.create(fields, words[1] == "runtime" ? TensorRTPhase::kRUNTIME : TensorRTPhase::kBUILD);
  std::printf("{\"created\": %s, \"log\": %s}\n", created ? "true" : "false", quoted(messages).c_str());
  words.erase(words.begin(), words.begin() + 5);
  while (host.plugin && !words.empty()) {
    messages.clear();
    const std::string action = words.front();
    words.pop_front();
    const std::string result = perform(host, action, words);
    std::printf("{%s, \"log\": %s}\n", result.c_str(), quoted(messages).c_str());
  }
  return 0;
}
