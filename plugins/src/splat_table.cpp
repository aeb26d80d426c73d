// Lift-splat table: the cell of every frustum point, then a stable counting sort by cell.
#include "variants.h"

namespace bev::BEV_VARIANT {
namespace {

// The cell of every point of one camera at one depth, -1 outside the grid. In double, so that a point on a cell border
// falls the same way on every machine.
void find_cells(const double *directions, int64_t num_pixels, const double *translation, double depth,
                const BevSplatGrid &grid, int32_t *cells) {
  const double *dx = directions, *dy = dx + num_pixels, *dz = dy + num_pixels;
  const double rows = static_cast<double>(grid.rows), columns = static_cast<double>(grid.columns);
  for (int64_t i = 0; i < num_pixels; ++i) {
    const double row = (dx[i] * depth + translation[0] - grid.x_min) / grid.cell;
    const double column = (dy[i] * depth + translation[1] - grid.y_min) / grid.cell;
    const double z = dz[i] * depth + translation[2];
    const bool inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns) & (z >= grid.z_min) & (z < grid.z_max);
    const int32_t whole_row = static_cast<int32_t>(inside ? row : 0.0);
    const int32_t whole_column = static_cast<int32_t>(inside ? column : 0.0);
    cells[i] = inside ? whole_row * static_cast<int32_t>(grid.columns) + whole_column : -1;
  }
}

void rotate_rays(const float *rays, int64_t num_pixels, const double *pose, double *directions) {
  for (int row = 0; row < 3; ++row)
    for (int64_t i = 0; i < num_pixels; ++i)
      directions[row * num_pixels + i] =
          pose[row * 4] * rays[i * 3] + pose[row * 4 + 1] * rays[i * 3 + 1] + pose[row * 4 + 2] * rays[i * 3 + 2];
}

} // namespace

int64_t splat(const SplatJob &job) {
  BevTable &table = *job.table;
  table.num_points = table.num_intervals = 0; // what an early return leaves
  const int64_t num_pixels = job.height * job.width, num_cells = job.grid->rows * job.grid->columns;
  __builtin_memset(job.cell_ends, 0, num_cells * sizeof(int32_t));
  for (int64_t camera = 0; camera < job.num_cameras; ++camera) {
    const double *pose = job.ref_from_camera + camera * 12;
    const double translation[3] = {pose[3], pose[7], pose[11]};
    rotate_rays(job.rays + camera * num_pixels * 3, num_pixels, pose, job.directions);
    for (int64_t depth = 0; depth < job.num_depths; ++depth) {
      int32_t *cells = job.cell_of_point + (camera * job.num_depths + depth) * num_pixels;
      find_cells(job.directions, num_pixels, translation, job.depths[depth], *job.grid, cells);
      for (int64_t i = 0; i < num_pixels; ++i)
        if (cells[i] >= 0) ++job.cell_ends[cells[i]];
    }
  }
  int64_t count = 0, intervals = 0;
  for (int64_t cell = 0; cell < num_cells; ++cell) {
    const int32_t length = job.cell_ends[cell];
    job.covered[cell] = length > 0;
    if (length == 0) continue;
    if (count + length > table.point_capacity || intervals >= table.interval_capacity) return BEV_ERROR_CAPACITY;
    table.interval_starts[intervals] = static_cast<int32_t>(count);
    table.interval_cells[intervals] = static_cast<int32_t>(cell);
    table.interval_lengths[intervals++] = length;
    for (int32_t i = 0; i < length; ++i) table.ranks_bev[count + i] = static_cast<int32_t>(cell);
    job.cell_ends[cell] = static_cast<int32_t>(count); // where the cell's next point goes
    count += length;
  }
  for (int64_t camera = 0; camera < job.num_cameras; ++camera)
    for (int64_t depth = 0; depth < job.num_depths; ++depth) {
      const int64_t first = (camera * job.num_depths + depth) * num_pixels;
      for (int64_t i = 0; i < num_pixels; ++i) {
        const int32_t cell = job.cell_of_point[first + i];
        if (cell < 0) continue;
        const int32_t at = job.cell_ends[cell]++;
        table.ranks_depth[at] = static_cast<int32_t>(first + i);
        table.ranks_feat[at] = static_cast<int32_t>(camera * num_pixels + i);
      }
    }
  table.num_points = count;
  table.num_intervals = intervals;
  return count;
}

} // namespace bev::BEV_VARIANT
