// SoundInput: a voice from the microphone (as 16-bit samples, a quarter of a second at a time) or a file, sent to the kernel.

const PART = 1 << 20, LARGEST = 64 << 20  // bytes of a message, bytes of a file
const TAP = `registerProcessor('tap', class extends AudioWorkletProcessor { process(inputs) { if (inputs[0][0]) this.port.postMessage(inputs[0][0].slice()); return true } })`
const WHY = {
  NotAllowedError: 'The browser was not allowed to use the microphone: allow it beside the address, or drop a sound file.',
  NotFoundError: 'No microphone was found: connect one, or drop a sound file.',
  NotReadableError: 'The microphone is in use by another program: close that, or drop a sound file.',
}

function render({model, el}) {
  const {on, watch, get, leave} = ties(model)
  const record = h('button', {type: 'button', class: 'sg-record'}, '● Record')
  const file = h('input', {type: 'file', accept: 'audio/*,video/*', 'aria-label': 'Choose a sound file'})
  const drop = h('label', {class: 'sg-drop'}, h('span', {}, 'or drop a sound file here, or choose one: '), file)
  const meter = h('meter', {min: 0, max: 1, value: 0, 'aria-label': 'Loudness of the microphone'}), time = h('output', {class: 'sg-time'})
  const bar = h('progress', {max: 1, value: 0, 'aria-label': 'Progress'})
  const status = h('div', {class: 'sg-status', role: 'status'})
  const root = h('div', {class: 'sg-widget sg-sound', role: 'group', 'aria-label': 'Sound input', 'data-lm-suppress-shortcuts': 'true', 'data-state': 'drawn'},
    h('div', {class: 'sg-row'}, record, meter, time, drop), bar, status)
  el.append(root)
  const say = (text, failed = true) => { status.textContent = text; root.classList.toggle('sg-failed', failed) }

  let mic = null, taken = 0, closed = false
  const pull = () => {
    say(get('status'), get('failed')); bar.value = get('progress'); bar.hidden = !get('busy')
    record.disabled = file.disabled = get('busy')
    meter.hidden = time.hidden = !mic
    record.textContent = mic ? '■ Stop' : '● Record'
    root.dataset.busy = get('busy') ? '1' : ''
  }
  for (const name of ['status', 'progress', 'busy', 'failed']) watch('change:'+name, pull)
  pull()

  async function start() {
    if (!navigator.mediaDevices?.getUserMedia) return say('This page may not use a microphone: open it from localhost or over https, or drop a sound file.')
    let stream
    try { stream = await navigator.mediaDevices.getUserMedia({audio: true}) }
    catch (e) { return say(WHY[e.name] ?? `The microphone could not be opened (${e.message}); drop a sound file.`) }
    const context = new AudioContext(), url = URL.createObjectURL(new Blob([TAP], {type: 'text/javascript'}))
    await context.audioWorklet.addModule(url)
    URL.revokeObjectURL(url)
    const tap = new AudioWorkletNode(context, 'tap'), mute = new GainNode(context, {gain: 0}), part = new Int16Array(Math.round(context.sampleRate/4))
    let filled = 0, loud = 0
    taken = 0
    model.send({kind: 'begin', name: 'microphone.wav', rate: context.sampleRate})
    const flush = () => { if (filled) model.send({kind: 'part'}, undefined, [part.slice(0, filled).buffer]); filled = 0 }
    tap.port.onmessage = ({data}) => {
      if (!mic) return
      for (const v of data) {
        part[filled++] = clamp(v, -1, 1)*32767; loud = Math.max(loud*.9998, Math.abs(v))
        if (filled === part.length) flush()
      }
      taken += data.length/context.sampleRate
      meter.value = loud; time.textContent = clock(taken)
      if (taken > get('longest')) stop()
    }
    context.createMediaStreamSource(stream).connect(tap).connect(mute).connect(context.destination)
    mic = {end(keep) { stream.getTracks().forEach(o => o.stop()); context.close(); if (keep) flush(); model.send({kind: keep ? 'end' : 'drop'}) }}
    pull(); say('Recording. Stop when you have said your sentence.', false)
  }
  function stop(keep = true) { const was = mic; mic = null; was?.end(keep); if (!closed) pull() }
  on(record, 'click', () => mic ? stop() : start())

  async function send(chosen) {
    if (!chosen || get('busy')) return
    if (!chosen.size) return say(`${chosen.name} is empty.`)
    if (chosen.size > LARGEST) return say(`${chosen.name} is larger than ${LARGEST >> 20} MB: cut out the sentence that the head should say.`)
    if (mic) stop(false)
    model.send({kind: 'begin', name: chosen.name, rate: 0})
    for (let at=0; at<chosen.size; at+=PART) model.send({kind: 'part'}, undefined, [await chosen.slice(at, at+PART).arrayBuffer()])
    model.send({kind: 'end'})
  }
  on(file, 'change', () => { send(file.files[0]); file.value = '' })
  for (const kind of ['dragenter', 'dragover']) on(root, kind, e => { e.preventDefault(); e.stopPropagation(); drop.classList.add('sg-over') })
  on(root, 'dragleave', () => drop.classList.remove('sg-over'))
  on(root, 'drop', e => { e.preventDefault(); e.stopPropagation(); drop.classList.remove('sg-over'); send(e.dataTransfer.files[0]) })
  on(root, 'keydown', e => e.stopPropagation())

  root.sg = {get state() { return {recording: !!mic, taken, progress: get('progress'), busy: get('busy'), text: status.textContent} }}
  model.send({kind: 'hello'})
  return () => { closed = true; stop(false); leave() }
}

export default {render}
