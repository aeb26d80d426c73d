// Launches the network's image input.
#include "core/checks.h"
#include "src/launch.h"

namespace bev::cuda {
namespace {

template <typename Value, int Count> __global__ void image_kernel(ImageArgs args, int64_t groups) {
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index < groups) image_pixels<Value, Count>(args, index);
}

template <typename Value> int64_t launch(const ImageArgs &args, int count, cudaStream_t stream) {
  const int64_t groups = args.cameras * args.height * args.width / count;
  const dim3 blocks(static_cast<unsigned>(ceil_div(groups, kThreads)));
  return launch_kernel(count == 4 ? image_kernel<Value, 4> : image_kernel<Value, 1>, blocks, kThreads, stream, args, groups);
}

} // namespace
} // namespace bev::cuda

extern "C" int64_t bev_cuda_taps(int64_t source, int64_t resized, int64_t offset, int64_t count, int32_t is_row,
                                 BevCudaTap *out) {
  return bev::cuda::taps(source, resized, offset, count, is_row != 0, out);
}

extern "C" int64_t bev_cuda_images(const BevCudaImages *job, void *stream_) {
  using namespace bev::cuda;
  if (const int64_t code = check(job)) return code;
  if (job->cameras == 0) return 0;
  const ImageArgs args = image_args(*job);
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_);
  switch (job->dtype) {
  case BEV_CUDA_FLOAT32: return launch<float>(args, image_width(*job), stream);
  case BEV_CUDA_FLOAT16: return launch<Half>(args, image_width(*job), stream);
  default: return launch<uint8_t>(args, image_width(*job), stream);
  }
}
