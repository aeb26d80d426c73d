// A few threads that live as long as the process and help with one job at a time.
#pragma once

#include <stdint.h>

namespace bev {

// Calls body(context, part) once for each part in [0, num_parts), on this thread and at most `num_threads` - 1 helpers.
//
// Returns when all parts are done. Parts may run in any order and at the same time. Helpers start at the first call that
// wants them; where the system refuses a thread, another caller is being helped, or no helper wakes in time, this thread
// does the work. A child of fork() starts its own helpers.
void run_parts(int64_t num_parts, int64_t num_threads, void (*body)(const void *context, int64_t part), const void *context);

} // namespace bev
