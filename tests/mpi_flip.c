/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded under mpirun by tests/cli_faults.sh: the message that carries update number FB_FLIP_MESSAGE of this rank,
 * from 1, arrives with bit FB_FLIP_BIT of it (modulo its length) the other way round. */
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

int MPI_Isend(const void *buffer, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm, MPI_Request *request)
{
    static long updates;
    const char *message = getenv("FB_FLIP_MESSAGE"), *bit = getenv("FB_FLIP_BIT");
    const int is_update = type == MPI_BYTE && count > 4 && memcmp(buffer, "FBU1", 4) == 0;
    updates += is_update;
    if (!is_update || !message || !bit || updates != strtol(message, NULL, 10))
        return PMPI_Isend(buffer, count, type, to, tag, comm, request);
    char *changed = malloc((size_t)count); /* until the process ends: the transfer goes on */
    const long at = strtol(bit, NULL, 10) % (8L * count);
    if (!changed)
        return MPI_ERR_NO_MEM;
    memcpy(changed, buffer, (size_t)count);
    changed[at / 8] = (char)(changed[at / 8] ^ 1 << at % 8);
    return PMPI_Isend(changed, count, type, to, tag, comm, request);
}
