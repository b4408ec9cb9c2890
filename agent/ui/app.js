'use strict';
/* Polls /v1/status and /v1/runs while the page is visible. Text goes in as text, never as HTML. */

const POLL_MS = 2000;
const TINT = {
  succeeded: 'good', alive: 'good',
  failed: 'bad', timed_out: 'bad', lost: 'bad',
  running: 'busy', preparing: 'busy', placed: 'busy', queued: 'busy', draining: 'busy',
};

const $ = (id) => document.getElementById(id);

function element(tag, text, className) {
  const e = document.createElement(tag);
  if (text !== undefined && text !== null) {
    e.textContent = String(text);
  }
  if (className) {
    e.className = className;
  }
  return e;
}

function bytes(n) {
  if (n === null || n === undefined) {
    return '–';
  }
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) {
    n /= 1024;
    i++;
  }
  return (i === 0 ? n : n.toFixed(1)) + ' ' + units[i];
}

function seconds(s) {
  if (s === null || s === undefined) {
    return '–';
  }
  if (s < 1) {
    return (s * 1000).toFixed(s < 0.01 ? 1 : 0) + ' ms';
  }
  if (s < 120) {
    return s.toFixed(1) + ' s';
  }
  return Math.floor(s / 60) + ' min ' + Math.round(s % 60) + ' s';
}

function ago(time) {
  const s = (Date.now() - Date.parse(time)) / 1000;
  if (!(s >= 0)) {
    return 'now';
  }
  if (s < 60) {
    return Math.floor(s) + ' s ago';
  }
  if (s < 3600) {
    return Math.floor(s / 60) + ' min ago';
  }
  return s < 86400 ? Math.floor(s / 3600) + ' h ago' : new Date(time).toLocaleString();
}

/* Each cell is text, [text, class], or a node. */
function rows(id, list, cells) {
  const body = $(id);
  const made = list.map((item) => {
    const tr = element('tr');
    for (const cell of cells(item)) {
      const td = cell instanceof Node ? element('td') : Array.isArray(cell)
        ? element('td', cell[0], cell[1]) : element('td', cell);
      if (cell instanceof Node) {
        td.append(cell);
      }
      tr.append(td);
    }
    return tr;
  });
  if (made.length === 0) {
    const td = element('td', 'none yet', 'empty');
    td.colSpan = body.parentElement.tHead.rows[0].cells.length;
    const tr = element('tr');
    tr.append(td);
    made.push(tr);
  }
  body.replaceChildren(...made);
}

function link(href, text) {
  const a = element('a', text);
  a.href = href;
  return a;
}

/* The token stays in this tab: nothing else can send it, so no other page can use it. */
const TOKEN = 'agent.token';

function headers() {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { Accept: 'application/json', Authorization: 'Bearer ' + token }
    : { Accept: 'application/json' };
}

/* A link carries no token: with one, what it leads to is fetched and saved. */
async function follow(event) {
  const a = event.target.closest('a[href^="/v1/"], a[href="/metrics"]');
  if (!a || !sessionStorage.getItem(TOKEN)) {
    return;
  }
  event.preventDefault();
  const path = a.getAttribute('href');
  const answer = await fetch(path, { headers: headers(), cache: 'no-store' });
  const save = document.createElement('a');
  save.href = URL.createObjectURL(await answer.blob());
  save.download = path.slice(1).replaceAll('/', '-');
  save.click();
  setTimeout(() => URL.revokeObjectURL(save.href), 60000);
}

function askToken(refused) {
  const form = $('login');
  if (form.hidden) {
    form.hidden = false;
    $('token').focus();
  }
  $('line').textContent = refused ? 'the token was not taken' : 'this node asks for a token';
}

function takeToken() {
  sessionStorage.setItem(TOKEN, $('token').value.trim());
  $('token').value = '';
  $('login').hidden = true;
  $('line').textContent = 'connecting…';
}

function runFiles(run) {
  const span = element('span');
  const base = '/v1/runs/' + encodeURIComponent(run.id);
  span.append(link(base + '/output', 'output'), ' ', link(base + '/logs', 'log'));
  return span;
}

function runState(run) {
  const detail = run.reason && run.reason !== 'exit' ? ' (' + run.reason + ')'
    : run.exit_code ? ' (' + run.exit_code + ')' : '';
  return [run.state + detail, TINT[run.state]];
}

function showStatus(status) {
  const list = $('counts');
  list.replaceChildren(...Object.entries(status.runs || {}).map(([state, n]) => {
    const div = element('div');
    div.append(element('dt', state), element('dd', n, n > 0 ? TINT[state] : ''));
    return div;
  }));
  rows('nodes', status.nodes || [], (n) => [
    n.name, [n.state, TINT[n.state]], n.running, n.queued, n.slots, n.cpus, bytes(n.memory_bytes),
    (n.load || []).map((x) => x.toFixed(2)).join(' '), n.class,
  ]);
  rows('jobs', status.jobs || [], (j) => [
    j.name === '' ? ['one-offs', 'empty'] : link('/v1/jobs/' + encodeURIComponent(j.name), j.name),
    j.queued, j.running, j.succeeded, [j.failed, j.failed > 0 ? 'bad' : ''],
    j.last_run ? ago(j.last_run) : '–',
  ]);
  const warnings = status.warnings || [];
  $('warnings').hidden = warnings.length === 0;
  $('warnings').replaceChildren(...warnings.map((w) => element('li', w)));
  const c = status.cluster || {};
  $('line').textContent = (c.nodes === 1 ? '1 node' : c.nodes + ' nodes') + ', version ' + c.version +
    ', store ' + bytes((status.store || {}).bytes) + ', images ' + bytes((status.images || {}).bytes);
}

function showRuns(page) {
  rows('runs', page.runs, (r) => {
    const res = r.resources || {};
    const id = link('/v1/runs/' + encodeURIComponent(r.id), r.id);
    return [
      id, [r.job || r.image, 'wide'], runState(r), r.node || '–', ago(r.created_at),
      seconds(r.run_seconds), seconds(res.cpu_seconds), bytes(res.memory_peak_bytes), runFiles(r),
    ];
  });
}

class NeedsToken extends Error {}

async function get(path) {
  const answer = await fetch(path, { headers: headers(), cache: 'no-store' });
  if (answer.status === 401) {
    throw new NeedsToken();
  }
  if (!answer.ok) {
    throw new Error(path + ': ' + answer.status);
  }
  return answer.json();
}

async function poll() {
  try {
    if (!document.hidden && $('login').hidden) {
      const [status, runs] = await Promise.all([get('/v1/status'), get('/v1/runs?limit=30')]);
      showStatus(status);
      showRuns(runs);
      document.body.classList.remove('stale');
    }
  } catch (e) {
    document.body.classList.add('stale');
    if (e instanceof NeedsToken) {
      askToken(sessionStorage.getItem(TOKEN) !== null);
      sessionStorage.removeItem(TOKEN);
      setTimeout(poll, POLL_MS);
      return;
    }
    $('line').textContent = 'no answer (' + e.message + ')';
  }
  setTimeout(poll, POLL_MS);
}

document.addEventListener('click', follow);
$('enter').addEventListener('click', takeToken);
$('token').addEventListener('keydown', (event) => {
  if (event.key === 'Enter') {
    takeToken();
  }
});
poll();
