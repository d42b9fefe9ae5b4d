/* QEMU plugin (API 1, user mode, AArch64): which blocks of instructions a program executes, and how
 * often.
 *
 *     qemu-aarch64 -plugin libexecuted_blocks.so,out=FILE PROGRAM...
 *
 * FILE gets a line for each block when the program ends: how often it ran, then its instructions,
 * in hexadecimal. A block ends with a branch, so the body of a loop without branches is one.
 * Debian's qemu-user comes without qemu-plugin.h: what is used of it is declared here.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t {
  const char* target_name;
} qemu_info_t; /* as far as it is read here */
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { kNoRegisters = 0 };

extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t,
                                                  void (*)(qemu_plugin_id_t,
                                                           struct qemu_plugin_tb*));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb*, void (*)(unsigned, void*),
                                                 int, void*);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void*),
                                           void*);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
extern struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
extern const void* qemu_plugin_insn_data(const struct qemu_plugin_insn*);

EXPORT int qemu_plugin_version = 1;

typedef struct Block {
  uint64_t executed;
  struct Block* next;
  size_t size;
  uint32_t words[];
} Block;

static Block* blocks; /* kept until the program ends */
static const char* out;

static void Executed(unsigned cpu, void* data) {
  (void)cpu;
  __atomic_fetch_add(&((Block*)data)->executed, 1, __ATOMIC_RELAXED);
}

static void Translated(qemu_plugin_id_t id, struct qemu_plugin_tb* tb) {
  (void)id;
  const size_t size = qemu_plugin_tb_n_insns(tb);
  Block* block = calloc(1, sizeof *block + size * sizeof block->words[0]);
  if (block == NULL) abort();
  block->size = size;
  for (size_t i = 0; i < size; i++) {
    memcpy(&block->words[i], qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, i)), 4);
  }
  do {
    block->next = blocks; /* the guest's threads translate at the same time */
  } while (!__sync_bool_compare_and_swap(&blocks, block->next, block));
  qemu_plugin_register_vcpu_tb_exec_cb(tb, Executed, kNoRegisters, block);
}

static void Ended(qemu_plugin_id_t id, void* data) {
  (void)id, (void)data;
  FILE* file = fopen(out, "w");
  if (file == NULL) return;
  for (const Block* block = blocks; block != NULL; block = block->next) {
    if (block->executed == 0) continue;
    fprintf(file, "%llu", (unsigned long long)block->executed);
    for (size_t i = 0; i < block->size; i++) fprintf(file, " %08x", block->words[i]);
    fputc('\n', file);
  }
  fclose(file);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t* info, int argc,
                               char** argv) {
  if (strcmp(info->target_name, "aarch64") != 0) return -1;
  if (argc != 1 || strncmp(argv[0], "out=", 4) != 0) return -1;
  out = strdup(argv[0] + 4);
  qemu_plugin_register_vcpu_tb_trans_cb(id, Translated);
  qemu_plugin_register_atexit_cb(id, Ended, NULL);
  return 0;
}
