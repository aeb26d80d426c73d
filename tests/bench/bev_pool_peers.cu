// The peers of bench_bev_pool_gpu.py: pooling as the published v1 and v2 operators lay it out, written anew.
#include <cuda_fp16.h>
template <typename T> __device__ float as_float(T value) { return static_cast<float>(value); }

template <typename T> __global__ void v2_style(const T *depth, const T *feat, const int *ranks_depth, const int *ranks_feat,
                                               const int *ranks_bev, const int *starts, const int *lengths, T *out,
                                               int channels, int intervals) {
  const int index = blockIdx.x * blockDim.x + threadIdx.x, interval = index / channels, channel = index % channels;
  if (interval >= intervals) return;
  const int start = starts[interval];
  float sum = 0;
  for (int i = start; i < start + lengths[interval]; ++i)
    sum += as_float(depth[ranks_depth[i]]) * as_float(feat[static_cast<long long>(ranks_feat[i]) * channels + channel]);
  out[static_cast<long long>(ranks_bev[start]) * channels + channel] = static_cast<T>(sum);
}

template <typename T> __global__ void v1_style(const T *products, const int *ranks_bev, const int *starts,
                                               const int *lengths, T *out, int channels, int intervals) {
  const int index = blockIdx.x * blockDim.x + threadIdx.x, interval = index / channels, channel = index % channels;
  if (interval >= intervals) return;
  const int start = starts[interval];
  float sum = 0;
  for (int i = start; i < start + lengths[interval]; ++i)
    sum += as_float(products[static_cast<long long>(i) * channels + channel]);
  out[static_cast<long long>(ranks_bev[start]) * channels + channel] = static_cast<T>(sum);
}

__global__ void empty() {}
