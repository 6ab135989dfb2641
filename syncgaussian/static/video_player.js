// VideoPlayer: one film file with its sound in the browser's own player, and a button that saves it.

function render({model, el}) {
  const {on, watch, get, showStill, leave} = ties(model)
  const still = h('img', {class: 'sg-still', alt: 'Still picture of the film'})
  const video = h('video', {controls: true, playsInline: true, class: 'sg-film', 'aria-label': 'Film'})
  const title = h('div', {class: 'sg-title'})
  const save = h('a', {class: 'sg-button'}, 'Download')
  const status = h('div', {class: 'sg-status', role: 'status'})
  const root = h('div', {class: 'sg-widget sg-video', role: 'group', 'aria-label': 'Film player', 'data-lm-suppress-shortcuts': 'true'}, title, still, video, h('div', {class: 'sg-row'}, save, status))
  el.append(root)
  showStill(still)
  let url, closed = false
  const pull = () => { title.textContent = get('title'); title.hidden = !get('title'); if (get('title')) video.setAttribute('aria-label', get('title')); video.style.height = `${get('size')}px` }
  pull(); watch('change:title', pull); watch('change:size', pull)
  const clear = () => { video.pause(); video.removeAttribute('src'); URL.revokeObjectURL(url); url = null; video.hidden = save.hidden = true; delete root.dataset.state }
  clear()
  watch('msg:custom', (message, buffers) => {
    if (message.kind !== 'video') return
    clear(); status.textContent = ''
    root.hidden = !buffers[0].byteLength
    if (root.hidden) return
    video.src = url = URL.createObjectURL(new Blob([bytes(buffers[0])], {type: 'video/mp4'})); video.hidden = false
    save.href = url; save.download = message.name; save.hidden = !get('download')
  })
  on(video, 'loadeddata', () => { still.hidden = true; root.dataset.state = 'drawn' })
  on(video, 'error', () => { if (url && !closed) { video.hidden = true; still.hidden = !still.src; status.textContent = 'This browser cannot play h264 films'+(get('download') ? ': download it and open it in a player.' : '; another one (Chrome, Edge, Firefox or Safari) can.') } })
  on(video, 'keydown', e => e.stopPropagation())

  root.sg = {
    pixels() {
      const canvas = h('canvas', {width: video.videoWidth, height: video.videoHeight}), c = canvas.getContext('2d')
      c.drawImage(video, 0, 0)
      return {width: canvas.width, height: canvas.height, data: c.getImageData(0, 0, canvas.width, canvas.height).data}
    },
    get state() { return {time: video.currentTime, seconds: video.duration, paused: video.paused} },
  }
  model.send({kind: 'hello'})
  return () => { closed = true; clear(); leave() }
}

export default {render}
