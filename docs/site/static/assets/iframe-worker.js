/* Browsers start no worker for a page that was opened as a file. There, and only there, the search runs in a hidden frame. */
if (location.protocol === "file:")
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const base = new URL(url, document.baseURI)
      this.onmessage = this.onerror = null
      this.waiting = []
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.src = "about:blank"
      document.body.appendChild(this.frame)
      const inside = this.frame.contentWindow
      const tell = data => {
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        if (this.onmessage) this.onmessage(event)
      }
      inside.document.open()
      inside.document.write("<!doctype html><html><body></body></html>")
      inside.document.close()
      const load = address => new Promise((resolve, reject) => {
        const script = inside.document.createElement("script")
        script.src = new URL(address, base).href
        script.onload = resolve
        script.onerror = () => reject(new Error(`cannot load ${script.src}`))
        inside.document.body.appendChild(script)
      })
      inside.postMessage = tell
      inside.importScripts = (...all) => all.reduce((before, next) => before.then(() => load(next)), Promise.resolve())
      load(base).then(() => {
        const kept = this.waiting
        this.waiting = null
        kept.forEach(data => this.postMessage(data))
      })
      this.inside = inside
    }
    postMessage(data) {
      if (this.waiting) this.waiting.push(data)
      else this.inside.dispatchEvent(new MessageEvent("message", { data }))
    }
    terminate() { this.frame.remove() }
  }
