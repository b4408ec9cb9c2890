/*
 * telemetry_json - samples, totals and series for the API and the run's record.
 */
#include "agent/telemetry/telemetry.h"
#include "common/insist.h"

const char *telemetry_peak_source_name(enum telemetry_peak_source s)
{
    static const char *const names[] = { "none", "kernel", "sampled" };

    REQUIRE((unsigned)s < ARRAY_LEN(names));
    return names[s];
}

void telemetry_totals_to_json(const struct telemetry_totals *t, struct json_w *w)
{
    json_w_obj(w);
    json_kv_u64(w, "elapsed_us", t->elapsed_us);
    json_kv_u64(w, "cpu_us", t->cpu_total_us);
    json_kv_u64(w, "cpu_user_us", t->cpu_user_us);
    json_kv_u64(w, "cpu_system_us", t->cpu_system_us);
    json_kv_u64(w, "throttled_us", t->throttled_us);
    json_kv_u64(w, "throttled", t->nr_throttled);
    json_kv_u64(w, "memory_peak_bytes", t->mem_peak_bytes);
    json_kv_cstr(w, "memory_peak_source",
                 telemetry_peak_source_name((enum telemetry_peak_source)t->mem_peak_source));
    json_kv_u64(w, "memory_fixed_peak_bytes", t->mem_fixed_peak_bytes);
    json_kv_u64(w, "memory_mean_bytes", t->mem_mean_bytes);
    json_kv_u64(w, "oom_kills", t->oom_kills);
    json_kv_u64(w, "faults_minor", t->faults_minor);
    json_kv_u64(w, "faults_major", t->faults_major);
    json_kv_u64(w, "io_read_bytes", t->io_read_bytes);
    json_kv_u64(w, "io_write_bytes", t->io_write_bytes);
    json_kv_u64(w, "io_read_ops", t->io_read_ops);
    json_kv_u64(w, "io_write_ops", t->io_write_ops);
    json_kv_u64(w, "network_rx_bytes", t->net_rx_bytes);
    json_kv_u64(w, "network_tx_bytes", t->net_tx_bytes);
    json_kv_u64(w, "network_rx_packets", t->net_rx_packets);
    json_kv_u64(w, "network_tx_packets", t->net_tx_packets);
    if ((t->has & (TELEMETRY_HAS_PSI_CPU | TELEMETRY_HAS_PSI_MEMORY | TELEMETRY_HAS_PSI_IO)) != 0) {
        json_kv_u64(w, "pressure_cpu_us", t->psi_cpu_us);
        json_kv_u64(w, "pressure_memory_us", t->psi_memory_us);
        json_kv_u64(w, "pressure_io_us", t->psi_io_us);
    }
    json_kv_u64(w, "switches_voluntary", t->switches_voluntary);
    json_kv_u64(w, "switches_involuntary", t->switches_involuntary);
    json_kv_u64(w, "pids_peak", t->pids_peak);
    if ((t->has & TELEMETRY_HAS_LLC) != 0) {
        json_kv_u64(w, "cache_mean_bytes", t->llc_mean_bytes);
        json_kv_u64(w, "cache_max_bytes", t->llc_max_bytes);
    }
    if ((t->has & TELEMETRY_HAS_MBM) != 0) {
        json_kv_u64(w, "memory_bandwidth_bytes", t->mbm_bytes);
    }
    json_kv_u64(w, "samples", t->samples);
    json_w_end(w);
}

void telemetry_sample_to_json(const struct telemetry_sample *s, struct json_w *w)
{
    json_w_obj(w);
    json_kv_u64(w, "at_us", s->at_us);
    json_kv_time(w, "time", s->wall_us);
    json_kv_u64(w, "cpu_us", s->cpu_total_us);
    json_kv_u64(w, "cpu_user_us", s->cpu_user_us);
    json_kv_u64(w, "cpu_system_us", s->cpu_system_us);
    json_kv_u64(w, "throttled_us", s->throttled_us);
    json_kv_u64(w, "throttled", s->nr_throttled);
    json_kv_u64(w, "memory_bytes", s->mem_bytes);
    json_kv_u64(w, "memory_anon_bytes", s->mem_anon);
    json_kv_u64(w, "memory_file_bytes", s->mem_file);
    json_kv_u64(w, "memory_kernel_bytes", s->mem_kernel);
    json_kv_u64(w, "memory_shmem_bytes", s->mem_shmem);
    json_kv_u64(w, "io_read_bytes", s->io_read_bytes);
    json_kv_u64(w, "io_write_bytes", s->io_write_bytes);
    json_kv_u64(w, "io_read_ops", s->io_read_ops);
    json_kv_u64(w, "io_write_ops", s->io_write_ops);
    json_kv_u64(w, "network_rx_bytes", s->net_rx_bytes);
    json_kv_u64(w, "network_tx_bytes", s->net_tx_bytes);
    json_kv_u64(w, "pids", s->pids);
    if ((s->rdt & TELEMETRY_HAS_LLC) != 0) {
        json_kv_u64(w, "cache_bytes", s->llc_bytes);
    }
    if ((s->rdt & TELEMETRY_HAS_MBM) != 0) {
        json_kv_u64(w, "memory_bandwidth_bytes", s->mbm_bytes);
    }
    json_w_end(w);
}

void telemetry_series_to_json(const struct telemetry_series *s, struct json_w *w)
{
    json_w_obj(w);
    json_kv_u64(w, "stride", s->stride);
    json_w_key(w, "samples");
    json_w_arr(w);
    for (uint32_t i = 0; i < s->n; i++) {
        telemetry_sample_to_json(&s->s[i], w);
    }
    if (s->pending > 0) {
        telemetry_sample_to_json(&s->open, w);
    }
    json_w_end(w);
    json_w_end(w);
}
