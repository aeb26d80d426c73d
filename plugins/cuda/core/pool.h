// Pooling on the GPU: which thread adds what, in which order.
//
// An interval is cut into runs of kRun points. A worker (one thread per 16 bytes of channels) adds up one run from front to
// back in float32; the sums of an interval's runs are then added in their order. The result is therefore a function of the
// interval alone: the same to the bit for every launch, and unchanged by what happens to other cells or cameras.
// There are no atomics. One launch writes every cell once: the first blocks pool, the last ones write the zeros.
#pragma once

#include "core/portable.h"

namespace bev::cuda {

constexpr int kRun = 32;        // points whose indices one warp fetches at once
constexpr int kMaxWorkers = 32; // runs that a block adds up at the same time
constexpr int kPoolThreads = 256;
constexpr int kMaxLanes = kPoolThreads / 2; // two workers at least
constexpr int kUnroll = 8;                  // loads of features in flight per thread
constexpr int kZeroCells = 512;             // cells that one block of zeros looks after

struct PoolArgs {
  const void *depth, *feat;
  const int32_t *ranks_depth, *ranks_feat, *ranks_bev, *interval_starts, *interval_lengths;
  void *out;
  int64_t num_depth, num_feat, num_points, num_intervals, num_cells, channels;
  bool channels_first;
};

// How the work is laid over blocks. It changes speed only, never a result.
struct PoolPlan {
  int lanes;       // threads that share a run, each with one pack of channels
  int workers;     // runs in flight per block
  int threads;     // workers * lanes
  int pool_blocks; // along x; each has at most `workers` intervals
  int zero_blocks; // along x, behind the others
  int lane_blocks; // along y
};

BEV_HD PoolPlan plan_pool(int64_t num_intervals, int64_t num_cells, int64_t channels, int width) {
  const int64_t packs = channels / width;
  PoolPlan plan;
  plan.lanes = static_cast<int>(least(packs, kMaxLanes));
  plan.workers = static_cast<int>(least(kPoolThreads / plan.lanes, kMaxWorkers));
  plan.threads = plan.workers * plan.lanes;
  plan.pool_blocks = static_cast<int>(ceil_div(num_intervals, plan.workers));
  plan.zero_blocks = static_cast<int>(ceil_div(num_cells, kZeroCells));
  plan.lane_blocks = static_cast<int>(ceil_div(packs, plan.lanes));
  return plan;
}

// The interval that a block takes up as its `slot`-th, or -1. Long intervals lie side by side, around the vehicle: dealing
// them out like cards keeps one block from getting them all. With channels first, cells that are neighbours share a
// sector of memory, so there a block takes neighbours.
BEV_HD int64_t interval_of(int64_t block, int slot, const PoolPlan &plan, int64_t num_intervals, bool channels_first) {
  const int64_t interval = channels_first ? block * plan.workers + slot : block + int64_t{slot} * plan.pool_blocks;
  return interval < num_intervals ? interval : -1;
}

// The points of an interval that has a cell, cut to those that exist.
BEV_HD void interval_points(const PoolArgs &args, int64_t interval, int64_t &begin, int64_t &length) {
  begin = args.interval_starts[interval];
  length = least(args.interval_lengths[interval], args.num_points - begin);
}

// The cell that an interval's first point names, which may be none of the grid.
BEV_HD int64_t named_cell(const PoolArgs &args, int64_t interval) {
  const int64_t begin = args.interval_starts[interval];
  return args.ranks_bev[begin < 0 ? 0 : least(begin, args.num_points - 1)];
}

// The cell of an interval, or -1 if it has none.
BEV_HD int64_t interval_cell(const PoolArgs &args, int64_t interval) {
  const int64_t begin = args.interval_starts[interval];
  if (begin < 0 || begin >= args.num_points) return -1;
  const int64_t cell = args.ranks_bev[begin];
  return cell >= 0 && cell < args.num_cells ? cell : -1;
}

// First interval whose cell is not below `cell`; intervals are sorted by cell.
BEV_HD int64_t first_interval(const PoolArgs &args, int64_t cell) {
  int64_t low = 0, high = args.num_points > 0 ? args.num_intervals : 0;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (named_cell(args, middle) < cell)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

struct PoolPoint {
  float weight;
  int32_t pixel; // -1 for a point outside the arrays: it counts as nothing
};

template <int Width> struct PoolShared {
  union {
    struct {
      PoolPoint points[kMaxWorkers][kRun];
      float sums[kPoolThreads * Width];  // of runs whose interval has more than one
      float carry[2][kMaxLanes * Width]; // of the interval that goes on in the next round
      int64_t begins[kMaxWorkers], lengths[kMaxWorkers], cells[kMaxWorkers];
      int32_t runs[kMaxWorkers], first_run[kMaxWorkers + 1]; // runs of each interval and their running total
      int32_t slots[2][kMaxWorkers];                         // the interval that a worker's run belongs to
    } pool;
    struct {
      uint8_t filled[kZeroCells];
      int64_t first, last;
    } zero;
  };
};

template <typename Value, int Width>
BEV_HD void write_cell(const PoolArgs &args, int64_t cell, int64_t channel, const float *sums) {
  Value *out = static_cast<Value *>(args.out);
  if (!args.channels_first) {
    Pack<Value, Width> pack;
    for (int i = 0; i < Width; ++i) store(sums[i], pack.values[i]);
    *reinterpret_cast<Pack<Value, Width> *>(out + cell * args.channels + channel) = pack;
    return;
  }
  for (int i = 0; i < Width; ++i) store(sums[i], out[(channel + i) * args.num_cells + cell]);
}

template <typename Value, int Width>
BEV_HD void add_run(const PoolArgs &args, const PoolPoint *points, int count, int64_t channel, float *sums) {
  const Value *feat = static_cast<const Value *>(args.feat) + channel;
  for (int i = 0; i < Width; ++i) sums[i] = 0;
  for (int first = 0; first < count; first += kUnroll) {
    Pack<Value, Width> packs[kUnroll];
    float weights[kUnroll];
    BEV_UNROLL
    for (int k = 0; k < kUnroll; ++k) {
      const bool used = first + k < count && points[first + k].pixel >= 0;
      weights[k] = used ? points[first + k].weight : 0.0f;
      if (used)
        packs[k] = *reinterpret_cast<const Pack<Value, Width> *>(feat + points[first + k].pixel * args.channels);
      else
        packs[k] = {};
    }
    BEV_UNROLL
    for (int k = 0; k < kUnroll; ++k) BEV_UNROLL
    for (int i = 0; i < Width; ++i) sums[i] += weights[k] * to_float(packs[k].values[i]);
  }
}

// Which of the block's intervals a run belongs to.
BEV_HD int slot_of_run(const int32_t *first_run, int run, int slots) {
  int low = 0, high = slots - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (first_run[middle] <= run)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

template <typename Value, int Width, typename Block>
BEV_HD void pool_intervals(const PoolArgs &args, const PoolPlan &plan, const Block &block, PoolShared<Width> &shared) {
  auto &mine = shared.pool;
  block.run([&](int thread) {
    if (thread >= plan.workers) return;
    const int64_t interval = interval_of(block.index_x, thread, plan, args.num_intervals, args.channels_first);
    mine.cells[thread] = interval < 0 ? -1 : interval_cell(args, interval);
    mine.begins[thread] = mine.lengths[thread] = 0;
    if (mine.cells[thread] >= 0) interval_points(args, interval, mine.begins[thread], mine.lengths[thread]);
    // An interval without points is a cell of zeros: one run of nothing.
    const int64_t runs = mine.lengths[thread] > 0 ? ceil_div(mine.lengths[thread], kRun) : 1;
    mine.runs[thread] = mine.cells[thread] >= 0 ? static_cast<int32_t>(runs) : 0;
  });
  block.run([&](int thread) {
    if (thread >= plan.workers) return;
    int32_t total = 0;
    for (int slot = 0; slot <= thread; ++slot) total += mine.runs[slot];
    if (thread == 0) mine.first_run[0] = 0;
    mine.first_run[thread + 1] = total;
  });
  block.run([&](int thread) {
    if (thread < plan.workers) mine.slots[0][thread] = slot_of_run(mine.first_run, thread, plan.workers);
  });
  const int runs = mine.first_run[plan.workers];
  const Value *depth = static_cast<const Value *>(args.depth);
  int parity = 0;
  for (int round = 0; round < runs; round += plan.workers, parity ^= 1) {
    const int32_t *slots = mine.slots[parity];
    block.run([&](int thread) {
      for (int entry = thread; entry < plan.workers * kRun; entry += plan.threads) {
        const int run = round + entry / kRun;
        if (run >= runs) continue;
        const int slot = slots[entry / kRun];
        const int64_t at = int64_t{run - mine.first_run[slot]} * kRun + entry % kRun;
        PoolPoint point{0.0f, -1};
        if (at < mine.lengths[slot]) {
          const int64_t rank_depth = args.ranks_depth[mine.begins[slot] + at];
          const int64_t rank_feat = args.ranks_feat[mine.begins[slot] + at];
          if (rank_depth >= 0 && rank_depth < args.num_depth && rank_feat >= 0 && rank_feat < args.num_feat)
            point = {to_float(depth[rank_depth]), static_cast<int32_t>(rank_feat)};
        }
        mine.points[entry / kRun][entry % kRun] = point;
      }
    });
    block.run([&](int thread) {
      const int worker = thread / plan.lanes, run = round + worker;
      const int64_t channel = (int64_t{block.index_y} * plan.lanes + thread % plan.lanes) * Width;
      if (run >= runs || channel >= args.channels) return;
      const int slot = slots[worker];
      const int64_t left = mine.lengths[slot] - int64_t{run - mine.first_run[slot]} * kRun;
      float sums[Width];
      add_run<Value, Width>(args, mine.points[worker], static_cast<int>(least(left, kRun)), channel, sums);
      if (mine.runs[slot] == 1) {
        write_cell<Value, Width>(args, mine.cells[slot], channel, sums);
        return;
      }
      for (int i = 0; i < Width; ++i) mine.sums[thread * Width + i] = sums[i];
    });
    // The worker with an interval's last run of this round adds up its runs.
    block.run([&](int thread) {
      if (thread < plan.workers)
        mine.slots[parity ^ 1][thread] = slot_of_run(mine.first_run, round + plan.workers + thread, plan.workers);
      const int worker = thread / plan.lanes, lane = thread % plan.lanes, run = round + worker;
      const int64_t channel = (int64_t{block.index_y} * plan.lanes + lane) * Width;
      if (run >= runs || channel >= args.channels) return;
      const int slot = slots[worker];
      const int first = mine.first_run[slot], last = mine.first_run[slot + 1] - 1;
      if (first == last || (run != last && worker != plan.workers - 1)) return;
      float total[Width];
      const int from = first < round ? 0 : first - round;
      for (int i = 0; i < Width; ++i)
        total[i] = first < round ? mine.carry[parity][lane * Width + i] + mine.sums[lane * Width + i]
                                 : mine.sums[(from * plan.lanes + lane) * Width + i];
      for (int other = from + 1; other <= worker; ++other)
        for (int i = 0; i < Width; ++i) total[i] += mine.sums[(other * plan.lanes + lane) * Width + i];
      if (run == last) return write_cell<Value, Width>(args, mine.cells[slot], channel, total);
      for (int i = 0; i < Width; ++i) mine.carry[parity ^ 1][lane * Width + i] = total[i];
    });
  }
}

// Writes the cells of one range that have no interval.
template <typename Value, int Width, typename Block>
BEV_HD void zero_cells(const PoolArgs &args, const PoolPlan &plan, const Block &block, PoolShared<Width> &shared) {
  auto &mine = shared.zero;
  const int64_t begin = int64_t{block.index_x - plan.pool_blocks} * kZeroCells;
  const int count = static_cast<int>(least(kZeroCells, args.num_cells - begin));
  block.run([&](int thread) {
    for (int cell = thread; cell < count; cell += plan.threads) mine.filled[cell] = 0;
    if (thread == 0) mine.first = first_interval(args, begin);
    if (thread == plan.threads - 1) mine.last = first_interval(args, begin + count);
  });
  block.run([&](int thread) {
    for (int64_t interval = mine.first + thread; interval < mine.last; interval += plan.threads) {
      const int64_t cell = interval_cell(args, interval) - begin;
      if (cell >= 0 && cell < count) mine.filled[cell] = 1;
    }
  });
  block.run([&](int thread) {
    const float zeros[Width] = {};
    const int64_t packs = least(plan.lanes, args.channels / Width - int64_t{block.index_y} * plan.lanes);
    for (int64_t at = thread; at < count * packs; at += plan.threads) {
      // Neighbouring threads write neighbouring memory.
      const int64_t cell = args.channels_first ? at % count : at / packs;
      const int64_t lane = args.channels_first ? at / count : at % packs;
      if (!mine.filled[cell])
        write_cell<Value, Width>(args, begin + cell, (int64_t{block.index_y} * plan.lanes + lane) * Width, zeros);
    }
  });
}

template <typename Value, int Width, typename Block>
BEV_HD void pool_block(const PoolArgs &args, const PoolPlan &plan, const Block &block, PoolShared<Width> &shared) {
  if (block.index_x < plan.pool_blocks)
    pool_intervals<Value, Width>(args, plan, block, shared);
  else
    zero_cells<Value, Width>(args, plan, block, shared);
}

} // namespace bev::cuda
