/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded under mpirun by tests/cli_bits.sh: delays the ranks at random in front of the calls whose order could
 * matter, so that messages arrive in another order every time. FB_DELAY_SEED picks the delays, 0 to 20 ms each. */
#include <mpi.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static void delay(void)
{
    static uint64_t state;
    if (state == 0) {
        int rank = 0;
        const char *seed = getenv("FB_DELAY_SEED");
        PMPI_Comm_rank(MPI_COMM_WORLD, &rank);
        state = (seed ? strtoull(seed, NULL, 10) : 1) * 1000003u + (uint64_t)rank + 1;
    }
    state = state * 6364136223846793005u + 1442695040888963407u;
    const struct timespec pause = {0, (long)(state >> 33) % 20000000};
    nanosleep(&pause, NULL);
}

int MPI_Isend(const void *buffer, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm, MPI_Request *request)
{
    delay();
    return PMPI_Isend(buffer, count, type, to, tag, comm, request);
}

int MPI_Bcast(void *buffer, int count, MPI_Datatype type, int root, MPI_Comm comm)
{
    delay();
    return PMPI_Bcast(buffer, count, type, root, comm);
}
